"""Tiny-ImageNet in the folder that its archive unpacks to.

200 classes of 64x64 pixels; ``train`` has a folder a class, ``val`` a table of labels. The
labels of ``test`` were never published, so it is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.image_files import list_images
from common.data.image_folder import reader
from common.data.images import Raw
from common.errors import DataError

FOLDER = "tiny-imagenet-200"
SIZE = 64


def read(folder: Path) -> Raw | None:
    """Training and validation images as one pool, or None where the folder does not hold them.

    Raises
    ------
    DataError: the folder is there, but a part of it is missing or does not fit the rest.
    """
    root = folder if (folder / "wnids.txt").is_file() else folder / FOLDER
    if not (root / "wnids.txt").is_file():
        return None
    try:
        ids = sorted((root / "wnids.txt").read_text().split())
        words = dict(
            line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines() if line
        )
        files: list[Path] = []
        labels: list[int] = []
        for label, wnid in enumerate(ids):
            images = list_images(root / "train" / wnid / "images")
            files += images
            labels += [label] * len(images)
        number = {wnid: label for label, wnid in enumerate(ids)}
        for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
            file, wnid, *_ = line.split("\t")
            files.append(root / "val" / "images" / file)
            labels.append(number[wnid])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{root} is not complete ({error}); unpack {FOLDER}.zip again") from error
    missing = set(range(len(ids))) - set(labels)
    if missing:
        raise DataError(
            f"{root} has no images of {ids[min(missing)]} and {len(missing) - 1} other classes; "
            f"unpack {FOLDER}.zip again"
        )
    return Raw(_names(ids, words), np.asarray(labels, np.int64), reader(files, SIZE, 3), str(root))


def _names(ids: list[str], words: dict[str, str]) -> tuple[str, ...]:
    """The first word of each class; the identifier is added where two classes share it."""
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
    return tuple(
        f"{name} ({wnid})" if first.count(name) > 1 else name
        for name, wnid in zip(first, ids, strict=True)
    )
