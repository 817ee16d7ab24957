"""Random views of training images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from common.contract import Crop
from common.errors import DataError


def crop(
    images: Tensor, kind: Crop, generator: Generator, border: Literal["reflect", "constant"]
) -> Tensor:
    """Each image shifted by up to an eighth of its size, and for "crop-flip" mirrored or not.

    Four pixels of 32, as is usual for CIFAR.

    Parameters
    ----------
    images: shape (n, c, h, w); unchanged.
    border: what comes in from outside: the image reflected, or zeros.

    Raises
    ------
    DataError: these are no images.
    """
    if kind == "none":
        return images
    if images.ndim != 4:
        raise DataError(f"random views ({kind}) are of images, not of features: turn them off")
    n, _, height, width = images.shape
    margin = max(1, min(height, width) // 8)
    padded = F.pad(images, [margin] * 4, mode=border)
    tops, lefts = torch.randint(2 * margin + 1, (2, n, 1, 1), generator=generator, device="cpu")
    rows = tops + torch.arange(height, device="cpu").view(1, -1, 1)
    columns = lefts + torch.arange(width, device="cpu").view(1, 1, -1)
    if kind == "crop-flip":
        mirrored = torch.rand(n, 1, 1, generator=generator, device="cpu") < 0.5
        columns = torch.where(mirrored, columns.flip(2), columns)
    every = torch.arange(n, device="cpu").view(-1, 1, 1)
    return padded[every, :, rows, columns].permute(0, 3, 1, 2)
