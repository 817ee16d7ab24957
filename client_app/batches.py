"""Full batches and mini-batches of a client's images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

Batch = tuple[Tensor, Tensor]
"""Images, shape (n, c, h, w), and labels, shape (n,)."""


def sample(images: Tensor, labels: Tensor, size: int, generator: Generator) -> Batch:
    """``size`` images drawn without replacement; all of them if 0 or if there are no more."""
    if not 0 < size < len(labels):
        return images, labels
    chosen = torch.randperm(len(labels), generator=generator, device="cpu")[:size]
    return images[chosen], labels[chosen]


def epoch(images: Tensor, labels: Tensor, size: int, generator: Generator) -> Iterator[Batch]:
    """One pass in random order; one full batch, in order, if ``size`` is 0 or covers all.

    An image that would be left alone joins the last full batch, because BatchNorm cannot train on
    a single one.
    """
    if not 0 < size < len(labels):
        yield images, labels
        return
    order = torch.randperm(len(labels), generator=generator, device="cpu")
    sizes = [size] * (len(labels) // size)
    rest = len(labels) % size
    if rest == 1:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    for chosen in order.split(sizes):
        yield images[chosen], labels[chosen]
