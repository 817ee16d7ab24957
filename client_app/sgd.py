"""Local stochastic gradient descent: the one loop that methods pass their gradient to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from client_app.batches import Batch, epoch
from common.sgd import LocalSgd

Gradient = Callable[[Tensor, Batch], tuple[Tensor, float]]
"""(flat parameters, batch) -> (gradient, loss in nats)."""


def local_sgd(
    start: Tensor,
    data: Batch,
    gradient: Gradient,
    sgd: LocalSgd,
    seed: int,
) -> tuple[Tensor, float]:
    """Run ``sgd.epochs`` of SGD with heavy-ball momentum from ``start``, shape (d,), unchanged.

    Parameters
    ----------
    seed: of the mini-batches.

    Returns the final parameters and the loss averaged over all images seen, nats.
    """
    vector, velocity = start.clone(), torch.zeros_like(start)
    generator = torch.Generator().manual_seed(seed)
    total, seen = 0.0, 0
    for _ in range(sgd.epochs):
        for batch in epoch(*data, sgd.batch_size, generator):
            grad, loss = gradient(vector, batch)
            if sgd.weight_decay:
                grad.add_(vector, alpha=sgd.weight_decay)
            velocity.mul_(sgd.momentum).add_(grad)
            vector.sub_(velocity, alpha=sgd.lr)
            total, seen = total + loss * len(batch[1]), seen + len(batch[1])
    return vector, total / max(seen, 1)
