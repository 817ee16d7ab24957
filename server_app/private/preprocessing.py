"""What a model wants its images to be: size, channels, normalisation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.errors import DataError, ModelError

# ITU-R BT.601 luma.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Preprocessing:
    """The input of one model.

    Attributes
    ----------
    channels, image_size: the model takes (n, channels, image_size, image_size).
    mean, std: per channel, in units where black is 0 and white is 1.
    """

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ModelError(
                f"normalisation for {self.channels} channels needs as many means and standard "
                f"deviations, not {len(self.mean)} and {len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise ModelError(f"standard deviations must be above 0, not {self.std}")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map uint8 images (n, c, h, w) to the model's float32 input; resizes where needed."""
        images = _convert(pixels.float() / 255, self.channels)
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (self.mean, self.std))
        return (images - mean[:, None, None]) / std[:, None, None]

    def as_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Back from ``as_dict``, or from its JSON."""
        return cls(
            int(values["channels"]),
            int(values["image_size"]),
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
        )


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


def _convert(images: Tensor, channels: int) -> Tensor:
    have = images.shape[1]
    if have == channels:
        return images
    if have == 1:
        return images.expand(-1, channels, -1, -1)
    if channels == 1 and have == 3:
        return (images * torch.tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    raise ModelError(
        f"images of {have} channels cannot be shown to a model of {channels}; "
        "1 to any and 3 to 1 are possible"
    )
