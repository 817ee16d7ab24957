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

from client_app.batches import sample
from client_app.device import Device
from client_app.meta import meta_gradient
from common.methods.augfl import Down, Up
from common.sketch import agree, sketch
from common.tensors import Tensors


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
    kept = _acknowledged(device, down)
    base = 0 if kept is None else down.acknowledged
    previous = torch.zeros_like(theta) if kept is None else torch.tensor(kept.vector)
    increment = torch.add(previous, meta.vector, alpha=down.weight).neg_()  # (11), times rho_i
    dual = previous.add_(increment)  # (12)
    # Until the server acknowledges the new dual, the one that it replaces is still needed.
    groups = {"sent": down.model.with_vector(dual.numpy(force=True))} | (
        {"acknowledged": kept} if kept else {}
    )
    device.memory.write("augfl", groups, {"sent": down.round, "acknowledged": base})
    return Up(
        round=down.round,
        base=base,
        increment=down.model.with_vector(increment.numpy(force=True)),
        dual=sketch(dual.numpy(force=True)).tolist(),
        examples=device.examples,
        loss=meta.loss,
        curvature=meta.curvature,
    )


def _acknowledged(device: Device, down: Down) -> Tensors | None:
    """The dual that the server has in its sum, if the device still has it; none for round 0."""
    memory = device.memory.read("augfl") if down.acknowledged else None
    if memory is not None:
        groups, notes = memory
        for name in ("sent", "acknowledged"):
            if notes.get(name) == down.acknowledged and name in groups:
                kept = groups[name]
                # A copied or restored memory may know the round, but another dual of it.
                if kept.specs == down.model.specs and agree(sketch(kept.vector), down.dual):
                    return kept
    return None
