"""Local stochastic gradient descent: the one loop that methods pass their gradient to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from client_app.batches import Batch, epoch

Gradient = Callable[[Tensor, Batch], tuple[Tensor, float]]
"""(flat parameters, batch) -> (gradient, loss in nats)."""


def local_sgd(
    start: Tensor,
    data: Batch,
    gradient: Gradient,
    *,
    lr: float,
    momentum: float,
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[Tensor, float]:
    """Run ``epochs`` of SGD with heavy-ball momentum from ``start``, shape (d,), unchanged.

    Returns the final parameters and the loss averaged over all images seen, nats.
    """
    vector, velocity = start.clone(), torch.zeros_like(start)
    generator = torch.Generator().manual_seed(seed)
    total, seen = 0.0, 0
    for _ in range(epochs):
        for batch in epoch(*data, batch_size, generator):
            slope, loss = gradient(vector, batch)
            velocity.mul_(momentum).add_(slope)
            vector.sub_(velocity, alpha=lr)
            total, seen = total + loss * len(batch[1]), seen + len(batch[1])
    return vector, total / max(seen, 1)
