"""A source's training images as a teacher sees them: in colour, and larger where that is possible.

Proxies are small and so are the images that they take; the files often hold more. The order is
that of ``Device.images``: support, then query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.config import DataSettings
from common.data.catalogue import known
from common.data.folder import load_folder_split
from common.data.images import LabelledImages, Pixels
from common.data.plan import ClientSplit

Pictures = Callable[[int], Pixels]
"""The size that a teacher takes -> uint8, shape (n, 3, h, w)."""


def pictures_of_set(images: LabelledImages, split: ClientSplit) -> Pictures:
    """From a data set: at its own size, whatever size is asked for."""
    own = known(images.name).image_size or images.image_size
    full = replace(images, image_size=own, channels=3)
    return lambda size: full.pixels(np.concatenate([split.support, split.query]))


def pictures_of_folder(
    folder: Path,
    classes: tuple[str, ...],
    data: DataSettings,
    only: Collection[str] | None = None,
) -> Pictures:
    """From a device's own folder: read again at the size that is asked for.

    Parameters
    ----------
    only: hashes of the images that count; all without it.
    """

    def read(size: int) -> Pixels:
        larger = data.model_copy(update={"image_size": size, "channels": 3})
        images, split = load_folder_split(folder, classes, larger, only)
        return images.pixels(np.concatenate([split.support, split.query]))

    return read
