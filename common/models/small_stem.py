"""Networks made for ImageNet, with a stem for images of 28 to 64 pixels.

An ImageNet stem shrinks the image by 4 before the first block, so that a 32-pixel image ends as a
single cell. Here the stem and the first reduction after it keep the size, as is usual for
CIFAR: the network shrinks an image by 8 in all, and everything behind the stem is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

_STEM = {
    "resnet18": "conv1",
    "mobilenet_v2": "features.0.0",
    "efficientnet_b0": "features.0.0",
}
_FIRST_REDUCTION = {
    "mobilenet_v2": "features.2.conv.1.0",
    "efficientnet_b0": "features.2.0.block.1.0",
}


def small_stem(name: str) -> Callable[[int, int, int], nn.Module]:
    """A builder (classes, channels, image_size) of torchvision's network ``name``."""

    def build(classes: int, channels: int, _: int) -> nn.Module:
        from torchvision import models

        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        old = cast(nn.Conv2d, model.get_submodule(_STEM[name]))
        stem = nn.Conv2d(channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(_STEM[name], stem)
        if name in _FIRST_REDUCTION:
            first = cast(nn.Conv2d, model.get_submodule(_FIRST_REDUCTION[name]))
            first.stride = (1, 1)
        else:
            model.set_submodule("maxpool", nn.Identity())
        return model

    return build
