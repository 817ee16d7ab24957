"""What a model wants its images to be: size, channels, normalisation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from common.data.images import LUMA
from common.errors import ModelError


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


def _convert(images: Tensor, channels: int) -> Tensor:
    have = images.shape[1]
    if have == channels:
        return images
    if have == 1:
        return images.expand(-1, channels, -1, -1)
    if channels == 1 and have == 3:
        return (images * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    raise ModelError(
        f"images of {have} channels cannot be shown to a model of {channels}; "
        "1 to any and 3 to 1 are possible"
    )
