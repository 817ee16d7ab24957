"""Training something small at the server, on what clients have sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.models import FlatModel
from common.tensors import Tensors

Net = TypeVar("Net", bound=nn.Module)


def seeded(build: Callable[[], Net], seed: int) -> Net:
    """A network with the initialisation of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def rows_of(collected: Mapping[int, Tensors]) -> tuple[Tensor, Tensor]:
    """The vectors of all clients and classes, shape (n, k), and their labels, shape (n,)."""
    pairs = [
        (array, int(label))
        for client in sorted(collected)
        for label, array in collected[client].unpack().items()
    ]
    rows = torch.from_numpy(np.stack([array for array, _ in pairs]))
    return rows, torch.tensor([label for _, label in pairs])


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of one pass in random order, the last batch perhaps smaller."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    yield from order.split(size)


def descend(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    *,
    rate: float,
    size: int,
    epochs: int,
    seed: int,
) -> float:
    """SGD of ``loss(indices)`` on the parameters of ``module``; the last pass's mean loss."""
    flat, mean = FlatModel(module), 0.0
    for epoch in range(epochs):
        total = 0.0
        for chosen in batches(count, size, seed + epoch):
            grad, value = flat.gradient(lambda chosen=chosen: loss(chosen))  # type: ignore[misc]
            flat.vector.sub_(grad, alpha=rate)
            total += value * len(chosen)
        mean = total / count
    return mean
