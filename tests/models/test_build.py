"""Models by name, and models that cannot be."""

from __future__ import annotations

import pytest
import torch

from common.errors import ModelError
from common.models import MODELS, build


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_alike_by_a_seed(name: str):
    before = torch.get_rng_state()
    one, same, other = (
        build(name, classes=4, channels=1, image_size=28, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert one.training
    for p, q in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(p, q)
    assert any(
        not torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("cnn-smal", 28, "near: cnn-small"),
        ("torchvision:resnet81", 28, "near: resnet"),
        ("cnn-wide", 4, "cannot take images of 1 x 4 x 4"),
        ("torchvision:vit_b_16", 28, "cannot take images of 1 x 28 x 28"),
        ("torchvision:resnet18", 0, "at least 1 pixel"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run(name: str, size: int, message: str):
    with pytest.raises(ModelError, match=message):
        build(name, classes=4, channels=1, image_size=size)


@pytest.mark.parametrize(
    ("pixels", "channels", "classes", "parameters"),
    [(28, 1, 10, 582_026), (32, 3, 10, 878_538), (32, 3, 100, 924_708)],
)
def test_the_four_layer_cnn_has_pfllibs_sizes(
    pixels: int, channels: int, classes: int, parameters: int
):
    model = build("cnn-5x5", classes=classes, channels=channels, image_size=pixels)
    sizes = [p.numel() for p in model.parameters()]
    assert sum(sizes) == parameters
    assert sizes[:4] == [32 * channels * 25, 32, 51_200, 64]
    assert sizes[-2:] == [512 * classes, classes]
