"""A folder of labelled images: one subfolder a class, images of any size in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.image_files import decode, list_classes
from common.data.images import Indices, Pixels, Raw, Reader


def reader(files: Sequence[Path], size: int, channels: int) -> Reader:
    """Pixels of files by index, decoded when they are asked for."""

    def pixels_of(indices: Indices) -> Pixels:
        pixels = np.empty((len(indices), channels, size, size), np.uint8)
        for row, index in enumerate(indices):
            pixels[row] = decode(files[index], size, channels)
        return pixels

    return pixels_of


def read(folder: Path, size: int, channels: int) -> Raw:
    """All images of a folder as one pool; the subfolders' names are the classes.

    Raises
    ------
    DataError: see ``list_classes``; a file that is no image is found when it is asked for.
    """
    classes = list_classes(folder)
    files = [path for paths in classes.values() for path in paths]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])
    return Raw(tuple(classes), labels.astype(np.int64), reader(files, size, channels), str(folder))
