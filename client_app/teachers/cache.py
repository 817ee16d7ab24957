"""What teachers answered, on disk: one row for each image, as a rule of float16.

A file belongs to one *identity*: a teacher's weights and preprocessing for its embeddings, and
its prompts or tuning besides for its logits. A row belongs to the hash of one image's pixels. So
a new image adds a row, changed prompts start new logits and leave the embeddings alone, and
changed weights start anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError, SettingsError
from common.files import write_atomic
from common.tensorfile import dump, parse
from common.tensors import Tensors

log = logging.getLogger(__name__)

Key = bytes
"""SHA-256 of an image's shape and pixels."""


def keys_of(images: NDArray[np.generic]) -> list[Key]:
    """One key for each image of a batch, shape (n, ...)."""
    shape = str(images.shape[1:]).encode()
    return [hashlib.sha256(shape + image.tobytes()).digest() for image in images]


def digest(identity: Any) -> str:
    """A name for anything that JSON can write: equal if and only if it is."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_folder(folder: Path, settings: Path) -> None:
    """Make the cache's folder and try a file in it.

    Parameters
    ----------
    settings: the file that names the folder, for the message.

    Raises
    ------
    SettingsError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check."):
            pass
    except OSError as error:
        raise SettingsError(
            f"{settings}: cache = {str(folder)!r} cannot be written ({error.strerror}); name a "
            "folder that the user of this process may write"
        ) from error


class Table:
    """Rows by image, whole or absent on disk.

    A file that is torn or altered counts as empty, and is written anew. Where the disk fails, rows
    stay in memory.
    """

    def __init__(self, path: Path, dtype: type[np.floating[Any]] = np.float16) -> None:
        self.path = path
        self._dtype = dtype
        self._rows = self._read()

    def missing(self, keys: Sequence[Key]) -> list[int]:
        """Positions in ``keys`` of images without a row; the first of equal images alone."""
        seen: set[Key] = set()
        positions = []
        for position, key in enumerate(keys):
            if key not in self._rows and key not in seen:
                positions.append(position)
                seen.add(key)
        return positions

    def add(self, keys: Sequence[Key], values: NDArray[np.floating[Any]]) -> None:
        """Put rows, shape (n, w), into memory; ``save`` writes them."""
        self._rows |= zip(keys, values.astype(self._dtype), strict=True)

    def get(self, keys: Sequence[Key]) -> NDArray[np.float32]:
        """Rows by key, shape (n, w)."""
        return np.stack([self._rows[key] for key in keys]).astype(np.float32)

    def save(self) -> None:
        """Write all rows, with those that another process has written meanwhile."""
        rows = self._read() | self._rows
        keys = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
        values = np.stack(list(rows.values()))
        content = Tensors.pack({"keys": keys, "values": values})
        try:
            write_atomic(self.path, dump({"rows": content}, {}))
        except OSError as error:
            log.warning(
                "%s cannot be written (%s); the teacher's answers are kept in memory alone",
                self.path, error.strerror,
            )  # fmt: skip

    def _read(self) -> dict[Key, NDArray[Any]]:
        try:
            groups, _ = parse(self.path.read_bytes(), str(self.path))
            arrays = groups["rows"].unpack()
            keys, values = arrays["keys"], arrays["values"]
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ModelError, KeyError, OSError) as error:
            log.warning("%s; the teacher's answers are computed again", error)
            return {}
        return {key.tobytes(): value for key, value in zip(keys, values, strict=True)}
