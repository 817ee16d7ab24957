"""Training something small at the server, on what clients have sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from common.tensors import Tensors


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
    """Indices of one pass in random order; one that would be left alone joins the last batch,
    because BatchNorm cannot train on a single one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    sizes = [size] * (count // size)
    if rest := count % size:
        sizes[-1:] = [sizes[-1] + 1] if rest == 1 and sizes else [*sizes[-1:], rest]
    yield from order.split(sizes)


def descend(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    *,
    rate: float,
    size: int,
    epochs: int,
    seed: int,
    by: type[torch.optim.Optimizer] = torch.optim.SGD,
) -> float:
    """Minimise ``loss(indices)`` over the parameters of ``module``; the last pass's mean loss.

    Parameters
    ----------
    count: of what there is to draw indices of, ``size`` a step, each once a pass.
    by: takes the steps; it begins anew in each call.
    """
    steps, mean = by(module.parameters(), lr=rate), 0.0  # type: ignore[call-arg]
    for epoch in range(epochs):
        total = 0.0
        for chosen in batches(count, size, seed + epoch):
            value = loss(chosen)
            steps.zero_grad()
            torch.autograd.backward(value)
            steps.step()
            total += float(value.detach()) * len(chosen)
        mean = total / count
    return mean
