"""Light networks for small images."""

from __future__ import annotations

import pytest
import torch

from common.models import build, features_and_logits

# The published sizes with 10 classes; the stem of ResNet18 is 3x3 instead of 7x7.
PARAMETERS = {"mobilenet_v2": 2_236_682, "efficientnet_b0": 4_020_358, "resnet18": 11_173_962}


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_image_shrinks_by_eight_before_the_pool(name: str):
    model = build(name, classes=10, channels=3, image_size=32).eval()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    sizes: list[int] = []

    def note(_: object, __: object, output: torch.Tensor) -> None:
        sizes.append(output.shape[-1])

    last = model.get_submodule("layer4" if name == "resnet18" else "features")
    last.register_forward_hook(note)
    for size in (28, 32, 64):
        features, logits = features_and_logits(model, torch.randn(2, 3, size, size))
        assert logits.shape == (2, 10)
        assert features.shape[1] in (512, 1280)
    assert sizes == [4, 4, 8]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_imagenet_stem_is_there_too(name: str):
    model = build(f"torchvision:{name}", classes=10, channels=1, image_size=224).eval()
    assert model(torch.randn(1, 1, 224, 224)).shape == (1, 10)
