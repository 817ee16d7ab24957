"""Data sets that a program or an installed package brings: arrays in memory, with a name.

A set may say who holds which image, for ``data.partition = "natural"``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common import extensions
from common.data.images import Indices, Pixels, Raw
from common.errors import DataError

SERVER = -1
"""The owner of images that the server may have."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labelled images of one size.

    Attributes
    ----------
    classes: names, in the order of the labels.
    images: uint8, shape (n, c, h, w), with 1 (grey) or 3 (red, green, blue) channels.
    labels: int64, shape (n,), each in [0, len(classes)).
    owners: the number of the client that holds each image, from 0, or ``SERVER``; int64, shape
        (n,); None where the set has no clients of its own.

    Raises
    ------
    DataError: shapes, types or numbers do not fit together.
    """

    classes: tuple[str, ...]
    images: Pixels
    labels: Indices
    owners: Indices | None = None

    def __post_init__(self) -> None:
        shape, count = self.images.shape, len(self.labels)
        if self.images.dtype != np.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise DataError(
                f"images are uint8 of shape (n, c, h, w) with 1 or 3 channels, not "
                f"{self.images.dtype} of shape {shape}"
            )
        if shape[0] != count or (self.owners is not None and len(self.owners) != count):
            raise DataError(f"{shape[0]} images need as many labels and owners, not {count}")
        if not count or self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(
                f"labels count from 0 to {len(self.classes) - 1}, one for each of the classes "
                f"{', '.join(self.classes[:20])}"
            )

    @property
    def size(self) -> int:
        """Height and width of the images, or the smaller of them, pixels."""
        return min(self.images.shape[2:])

    @property
    def raw(self) -> Raw:
        """As a data set that was read from files."""
        return Raw(self.classes, self.labels, lambda indices: self.images[indices], "memory")

    @cached_property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, pixels scaled to [0, 1]."""
        counts = np.stack([np.bincount(c.ravel(), minlength=256) for c in self._channels()])
        levels = np.arange(256) / 255
        mean = counts @ levels / counts.sum(1)
        std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) - mean**2, 1e-12))
        return tuple(map(float, mean)), tuple(map(float, std))

    def digest(self) -> str:
        """The first letters of a SHA-256 of everything: another set has another."""
        sha = hashlib.sha256(repr((self.classes, self.images.shape)).encode())
        for part in (self.images, self.labels, self.owners):
            if part is not None:
                sha.update(np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()[:12]

    def _channels(self) -> Sequence[Pixels]:
        return [self.images[:, channel] for channel in range(self.images.shape[1])]


_REGISTERED: dict[str, DataSet] = {}


def register(name: str, data: DataSet) -> None:
    """Let ``data.name`` mean ``data`` in this process."""
    _REGISTERED[name] = data


def names() -> list[str]:
    """The sets that installed packages bring."""
    return list(extensions.added("data"))


def find(name: str) -> DataSet | None:
    """The set of that name, if there is one; that of a package is made when it is first needed.

    Raises
    ------
    SettingsError: the package cannot be imported.
    DataError: what it gives is no data set.
    """
    if name not in _REGISTERED and name in extensions.added("data"):
        data = extensions.load("data", name)()
        if not isinstance(data, DataSet):
            raise DataError(f"data set {name!r} is a {type(data).__name__}, not a DataSet")
        _REGISTERED[name] = data
    return _REGISTERED.get(name)
