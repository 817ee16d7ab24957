"""AugFL, the device's half (arXiv 2503.02154, equations (7) and (10)-(12)).

With G = (I - alpha H) r estimated at theta^t, the closed forms are

    theta_i = theta^t - (y_i' + w_i G) / rho_i            (11)
    y_i     = y_i' + rho_i (theta_i - theta^t)            (12)

so rho_i (theta_i - theta^t) = -(y_i' + w_i G) = y_i - y_i': one vector carries the whole result,
and it does not depend on rho_i. y_i' is the dual of this client's last reply *that the server
has acknowledged*; a reply lost on the way is thus as if it had never been computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client_app.batches import sample
from client_app.device import Device
from client_app.meta import meta_gradient
from common.methods.augfl import Down, Up


def train(down: Down, device: Device) -> Up:
    """One inexact ADMM step: nothing but gradients."""
    data, theta = device.client, torch.tensor(down.model.vector)
    generator = torch.Generator().manual_seed(down.seed)
    support = sample(data.support_images, data.support_labels, down.batch_size, generator)
    query = sample(data.query_images, data.query_labels, down.batch_size, generator)
    device.model.module.train()
    meta = meta_gradient(
        device, theta, support, query,
        alpha=down.alpha, delta=down.delta, difference=down.difference,
    )  # fmt: skip
    base, previous = _dual(device, down.acknowledged, theta)
    increment = torch.add(previous, meta.vector, alpha=down.weight).neg_()  # (11), times rho_i
    dual = previous.add_(increment)  # (12)
    _remember(device, down, dual)
    return Up(
        round=down.round,
        base=base,
        increment=down.model.with_vector(increment.numpy()),
        examples=len(data.support_labels) + len(data.query_labels),
        loss=meta.loss,
        gradient_norm=float(meta.vector.norm()),
        curvature=meta.curvature,
    )


def _dual(device: Device, acknowledged: int, theta: Tensor) -> tuple[int, Tensor]:
    """The dual of the acknowledged reply and its round; zero and 0 if this device has it not."""
    memory = device.memory.read("augfl") if acknowledged else None
    if memory is not None:
        groups, notes = memory
        for kept in ("sent", "acknowledged"):
            if notes.get(kept) == acknowledged and kept in groups:
                return acknowledged, torch.tensor(groups[kept].vector)
    return 0, torch.zeros_like(theta)


def _remember(device: Device, down: Down, dual: Tensor) -> None:
    """Keep the new dual and, until the server has acknowledged it, the one that it replaces."""
    groups = {"sent": down.model.with_vector(dual.numpy())}
    notes = {"sent": down.round, "acknowledged": 0}
    memory = device.memory.read("augfl")
    if memory is not None and down.acknowledged:
        old, old_notes = memory
        for kept in ("sent", "acknowledged"):
            if old_notes.get(kept) == down.acknowledged and kept in old:
                groups["acknowledged"] = old[kept]
                notes["acknowledged"] = down.acknowledged
                break
    device.memory.write("augfl", groups, notes)
