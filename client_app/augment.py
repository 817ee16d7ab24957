"""Augmentation of training images on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KINDS = ("none", "crop", "crop-flip")


def augment(images: Tensor, kind: str, generator: Generator) -> Tensor:
    """Each image shifted by up to an eighth of its size, and for "crop-flip" mirrored or not.

    Parameters
    ----------
    images: shape (n, c, h, w); unchanged.
    kind: one of ``KINDS``.

    Raises
    ------
    ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"augmentation {kind!r}: choose one of {', '.join(KINDS)}")
    if kind == "none":
        return images
    n, _, height, width = images.shape
    margin = max(1, min(height, width) // 8)
    padded = F.pad(images, [margin] * 4, mode="reflect")
    tops, lefts = torch.randint(2 * margin + 1, (2, n, 1, 1), generator=generator)
    rows = tops + torch.arange(height).view(1, -1, 1)
    columns = lefts + torch.arange(width).view(1, 1, -1)
    if kind == "crop-flip":
        mirrored = torch.rand(n, 1, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(2), columns)
    every = torch.arange(n).view(-1, 1, 1)
    return padded[every, :, rows, columns].permute(0, 3, 1, 2)
