"""Random views: shifts and mirrors, decided by the generator alone."""

from __future__ import annotations

import torch
from torch import Generator

from common.data.crop import crop


def dice(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_none_changes_nothing():
    images = torch.randn(3, 1, 8, 8)
    assert crop(images, "none", dice(), "reflect") is images


def test_crops_are_windows_of_the_reflected_image():
    images = torch.randn(20, 2, 16, 16)
    padded = torch.nn.functional.pad(images, [2] * 4, mode="reflect")
    seen = set()
    for image, border in zip(crop(images, "crop", dice(), "reflect"), padded, strict=True):
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
    falling = crop(images, "crop-flip", dice(), "reflect")[:, 0, 4].diff().sum(1) < 0
    assert 10 < int(falling.sum()) < 30


def test_the_seed_decides():
    images = torch.randn(5, 3, 8, 8)
    one, same, other = (crop(images, "crop-flip", dice(seed), "reflect") for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_views_are_shifted_and_mirrored_images():
    images = torch.randint(256, (200, 1, 8, 8), dtype=torch.uint8, generator=dice(1))
    generator = dice()
    views = crop(images, "crop-flip", generator, "constant")
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    kinds = set()
    for image, view in zip(padded, views, strict=True):
        fits = [
            (row, column, mirror)
            for row in range(3)
            for column in range(3)
            for mirror in (False, True)
            if torch.equal(_cut(image, row, column, mirror), view)
        ]
        assert len(fits) == 1
        kinds.add(fits[0])
    assert len(kinds) == 18


def _cut(image: torch.Tensor, row: int, column: int, mirror: bool) -> torch.Tensor:
    cut = image[:, row : row + 8, column : column + 8]
    return cut.flip(2) if mirror else cut


def test_views_without_mirror_or_without_anything():
    left = torch.zeros(100, 1, 8, 8, dtype=torch.uint8)
    left[..., :2] = 200
    generator = dice()
    assert int(crop(left, "crop", generator, "constant")[..., 4:].max()) == 0
    assert crop(left, "none", generator, "constant") is left
