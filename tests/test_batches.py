"""Mini-batches: every image once a pass, and never one alone."""

from __future__ import annotations

import pytest
import torch

from client_app.batches import epoch


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (5, 4, [5]),
        (3, 2, [3]),
        (3, 1, [1, 1, 1]),
        (4, 0, [4]),
        (4, 9, [4]),
    ],
)
def test_sizes(n: int, size: int, sizes: list[int]):
    images = torch.arange(n)
    parts = list(epoch(images, images, size, torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in parts] == sizes
    assert sorted(torch.cat([labels for _, labels in parts]).tolist()) == list(range(n))
