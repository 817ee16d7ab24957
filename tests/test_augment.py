"""Augmentation: shifts and mirrors, decided by the generator alone."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from client_app.augment import augment


def dice(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_none_changes_nothing():
    images = torch.randn(3, 1, 8, 8)
    assert augment(images, "none", dice()) is images


def test_crops_are_windows_of_the_reflected_image():
    images = torch.randn(20, 2, 16, 16)
    padded = torch.nn.functional.pad(images, [2] * 4, mode="reflect")
    seen = set()
    for image, border in zip(augment(images, "crop", dice()), padded, strict=True):
        fits = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(image, border[:, y : y + 16, x : x + 16])
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 5


def test_some_images_are_mirrored():
    images = torch.arange(8.0).expand(40, 1, 8, 8)
    falling = augment(images, "crop-flip", dice())[:, 0, 4].diff().sum(1) < 0
    assert 10 < int(falling.sum()) < 30


def test_the_seed_decides():
    images = torch.randn(5, 3, 8, 8)
    one, same, other = (augment(images, "crop-flip", dice(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="choose one of none, crop, crop-flip"):
        augment(torch.zeros(1, 1, 8, 8), "cutout", dice())
