"""IDX files, the format of MNIST and its relatives, plain or gzipped.

Layout: two zero bytes, a type code (8: unsigned byte), the number of dimensions, then each
dimension as a big-endian 32-bit number, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from common.data.images import Indices, Pixels, Raw
from common.errors import DataError


def read_idx(path: Path) -> Pixels:
    """Read one IDX file of unsigned bytes; a plain file is mapped, not read.

    Raises
    ------
    DataError: the file is damaged or of another kind.
    """
    try:
        status = path.stat()
        if path.suffix == ".gz":
            return _unpacked(path, status.st_mtime_ns, status.st_size)
        with path.open("rb") as file:
            shape, start = _header(file)
        if status.st_size != start + math.prod(shape):
            raise ValueError(f"{status.st_size} bytes, not {start + math.prod(shape)}")
        return np.memmap(path, np.uint8, "r", start, shape)
    except (OSError, EOFError, zlib.error, ValueError, struct.error) as error:
        raise DataError(f"{path} is damaged ({error}); bring a fresh copy") from error


def read(
    folder: Path, classes: tuple[str, ...], prefix: str = "", test: str = "t10k"
) -> Raw | None:
    """Train and test images of an MNIST-like set as one pool, or None where a file is missing.

    Parameters
    ----------
    prefix, test: of the file names, as ``<prefix><test>-images-idx3-ubyte[.gz]``.

    Raises
    ------
    DataError: a file is damaged, or images and labels do not fit each other.
    """
    images, labels = [], []
    for part in ("train", test):
        images.append(_find(folder, f"{prefix}{part}-images-idx3-ubyte"))
        labels.append(_find(folder, f"{prefix}{part}-labels-idx1-ubyte"))
    if None in images or None in labels:
        return None
    parts = [read_idx(cast(Path, path)).astype(np.int64) for path in labels]
    letters = prefix == "emnist-letters-"
    joined = np.concatenate(parts) - int(letters)  # letters are counted from 1
    if len(joined) == 0 or joined.min() < 0 or joined.max() >= len(classes):
        raise DataError(
            f"{folder}: labels are not in 0..{len(classes) - 1}; these files are of another data "
            "set, or damaged"
        )
    sizes = [len(part) for part in parts]

    @cache
    def arrays() -> list[Pixels]:
        found = [read_idx(cast(Path, path)) for path in images]
        for path, array, size in zip(images, found, sizes, strict=True):
            if array.ndim != 3 or len(array) != size:
                raise DataError(
                    f"{path} holds an array of shape {array.shape}, but its labels are {size}; "
                    "bring a fresh copy of both"
                )
        return found

    def pixels_of(indices: Indices) -> Pixels:
        first, second = arrays()
        pixels = np.empty((len(indices), *first.shape[1:]), np.uint8)
        early = indices < len(first)
        pixels[early] = first[indices[early]]
        pixels[~early] = second[indices[~early] - len(first)]
        if letters:  # EMNIST stores its images transposed
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 1))
        return pixels[:, None]

    return Raw(classes, joined, pixels_of, str(folder))


@lru_cache(maxsize=4)
def _unpacked(path: Path, _changed: int, _size: int) -> Pixels:
    """A gzipped file's values, kept: a process that simulates many clients unpacks them once."""
    with gzip.open(path) as file:
        shape, _ = _header(cast(BinaryIO, file))
        values = np.frombuffer(file.read(), np.uint8)
    return values.reshape(shape)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], int]:
    zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
    if zeros != 0 or kind != 8 or dimensions == 0:
        raise ValueError("not an IDX file of unsigned bytes")
    return struct.unpack(f">{dimensions}I", file.read(4 * dimensions)), 4 + 4 * dimensions


def _find(folder: Path, name: str) -> Path | None:
    plain, packed = folder / name, folder / f"{name}.gz"
    return plain if plain.is_file() else packed if packed.is_file() else None
