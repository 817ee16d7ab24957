"""CIFAR-10 and CIFAR-100 in the folders that their archives unpack to.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.images import Indices, Pixels, Raw
from common.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


def read(folder: Path, name: str) -> Raw | None:
    """Train and test images as one pool, or None where the folder does not hold them.

    The files are Python pickles: torchvision opens them only if their MD5 is the published one.

    Raises
    ------
    DataError: the folder is there, but not complete or not the published one.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = folder.parent if folder.name == kind.base_folder else folder
    if not (root / kind.base_folder).is_dir():
        return None
    try:
        parts = _parts(kind, root)
    except RuntimeError as error:
        raise DataError(
            f"{root / kind.base_folder} is not complete or damaged; unpack {kind.filename} again"
        ) from error
    arrays = [part.data for part in parts]  # uint8, (n, h, w, c)
    labels = np.concatenate([np.asarray(part.targets, np.int64) for part in parts])

    def pixels_of(indices: Indices) -> Pixels:
        first, second = arrays
        pixels = np.empty((len(indices), *first.shape[1:]), np.uint8)
        early = indices < len(first)
        pixels[early] = first[indices[early]]
        pixels[~early] = second[indices[~early] - len(first)]
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    return Raw(tuple(parts[0].classes), labels, pixels_of, str(root / kind.base_folder))


@lru_cache(maxsize=1)
def _parts(kind: type[CIFAR10], root: Path) -> list[CIFAR10]:
    """Train and test part, kept: a process that simulates many clients reads them once."""
    return [kind(root, train=train) for train in (True, False)]
