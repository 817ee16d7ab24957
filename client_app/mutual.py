"""Training of the shared model and of a client's own one, side by side, each by its own loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from client_app.batches import Batch
from client_app.device import Device
from client_app.features import clipped
from client_app.sgd import local_sgd
from common.models import FlatModel
from common.sgd import LocalSgd
from common.tensors import Vector


class Losses(NamedTuple):
    """Of one batch: what moves each model, and the cross-entropy of each; nats."""

    shared: Tensor
    own: Tensor
    shared_hard: Tensor
    own_hard: Tensor


def learn_both(
    device: Device,
    own: FlatModel,
    theta: Vector,
    data: Batch,
    losses: Callable[[Tensor, Tensor], Losses],
    sgd: LocalSgd,
    seed: int,
    clip: float = math.inf,
) -> tuple[Vector, float, float]:
    """Train both; gives the change of the shared one, its cross-entropy and that of the own one.

    Parameters
    ----------
    theta: where the shared model starts, shape (d,); it is that of the device, made ready to train.
    losses: of images and labels; no gradient of one may reach the other model.
    clip: largest norm of the gradient of each.
    """
    shared, start, d = device.model, torch.tensor(theta), len(theta)
    own.module.train()
    own_loss, seen = 0.0, 0

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        nonlocal own_loss, seen
        shared.load(vector[:d])
        own.load(vector[d:])
        found, count = losses(*batch), len(batch[1])
        grads = (shared.gradient(lambda: found.shared)[0], own.gradient(lambda: found.own)[0])
        own_loss, seen = own_loss + float(found.own_hard.detach()) * count, seen + count
        both = torch.cat([clipped(grad, clip) for grad in grads])
        return both, float(found.shared_hard.detach())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        vector, loss = local_sgd(torch.cat([start, own.vector]), data, gradient, sgd, seed)
    own.load(vector[d:])
    return vector[:d].sub_(start).numpy(force=True), loss, own_loss / max(seen, 1)
