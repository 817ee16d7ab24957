"""The server's own images and labels, as a user gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DataError


def as_pixels(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Check images and give them as one uint8 tensor (n, c, h, w), n at least 2.

    Raises
    ------
    DataError: another shape or dtype, or fewer than two images.
    """
    pixels = _tensor(images)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise DataError(
            "the server's images must be uint8 of shape (n, channels, height, width), "
            f"not {pixels.dtype} of shape {tuple(pixels.shape)}"
        )
    if len(pixels) < 2:
        raise DataError(f"the server's set needs at least 2 images, not {len(pixels)}")
    return pixels.contiguous()


def as_labels(labels: NDArray[np.int64] | Tensor, images: int, classes: int) -> Tensor:
    """Check labels and give them as an int64 tensor (n,).

    Raises
    ------
    DataError: not one label an image, or a label outside 0 .. classes - 1.
    """
    tensor = _tensor(labels).long()
    if tensor.shape != (images,):
        raise DataError(f"{images} images need as many labels, not {tuple(tensor.shape)}")
    if images and not (int(tensor.min()) >= 0 and int(tensor.max()) < classes):
        raise DataError(
            f"labels must be 0 to {classes - 1} for {classes} classes, not "
            f"{int(tensor.min())} to {int(tensor.max())}"
        )
    return tensor


def _tensor(values: NDArray[Any] | Tensor) -> Tensor:
    """As a tensor; a read-only array is copied, because a tensor cannot be read-only."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()
    return torch.as_tensor(values)
