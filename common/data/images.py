"""Labelled images: one pool of pixels and labels, whatever it was read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Reader = Callable[[Indices], Pixels]
"""Indices of n images to their pixels, shape (n, c, h, w)."""

LUMA = (0.299, 0.587, 0.114)
"""Grey from red, green and blue (ITU-R BT.601, as Pillow's mode L)."""


@dataclass(frozen=True)
class Raw:
    """What the files of a data set hold, before any change of size or colour.

    Attributes
    ----------
    classes: names, in the order of the labels.
    labels: int64, shape (n,), each in [0, len(classes)).
    read: pixels of chosen images; nothing is decoded before it is asked for.
    place: the folder that the files are in.
    """

    classes: tuple[str, ...]
    labels: Indices
    read: Reader
    place: str


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A pool of labelled images; pixels are read when they are asked for.

    Attributes
    ----------
    name: of the data set.
    classes: names, in the order of the labels.
    labels: int64, shape (n,).
    channels: 1 (grey) or 3 (red, green, blue).
    image_size: height and width, pixels.
    mean, std: public constants per channel, of pixels scaled to [0, 1].
    found: where the files were found, in words.
    read: pixels as stored; ``pixels`` brings them to ``channels`` and ``image_size``.
    owners: the client that holds each image, as in ``common.data.own.DataSet``; None where the
        set has no clients of its own.
    """

    name: str
    classes: tuple[str, ...]
    labels: Indices
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    found: str
    read: Reader
    owners: Indices | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Indices) -> Pixels:
        """The chosen images, uint8, shape (n, channels, image_size, image_size)."""
        return fit(self.read(np.asarray(indices, np.int64)), self.image_size, self.channels)

    def tensors(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """The chosen images, float32 (n, c, h, w), as (x / 255 - mean) / std, and int64 labels."""
        indices = np.asarray(indices, np.int64)
        images = torch.from_numpy(self.pixels(indices)).float().div_(255)
        mean, std = (
            torch.tensor(value, device="cpu").view(1, -1, 1, 1) for value in (self.mean, self.std)
        )
        return images.sub_(mean).div_(std), torch.from_numpy(self.labels[indices])


def fit(pixels: Pixels, size: int, channels: int) -> Pixels:
    """Bring uint8 images of shape (n, c, h, w) to ``size`` x ``size`` pixels and ``channels``.

    Smoothed bilinear resizing. Grey becomes colour by repetition, colour grey by luminance.
    """
    if pixels.shape[1:] == (channels, size, size):
        return pixels
    if len(pixels) == 0:
        return np.zeros((0, channels, size, size), np.uint8)
    images = torch.from_numpy(pixels).float()
    if images.shape[1] == 3 and channels == 1:
        images = (images * torch.tensor(LUMA, device="cpu").view(1, 3, 1, 1)).sum(1, keepdim=True)
    if images.shape[2:] != (size, size):
        images = functional.interpolate(
            images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
    images = images.round_().clamp_(0, 255).to(torch.uint8)
    return images.expand(-1, channels, -1, -1).contiguous().numpy()


def grey(values: tuple[float, ...]) -> float:
    """Luminance of three per-channel values."""
    return float(sum(weight * value for weight, value in zip(LUMA, values, strict=True)))
