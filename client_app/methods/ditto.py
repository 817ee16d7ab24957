"""Ditto, the device's half (arXiv 2012.04221, algorithm 1).

    w_i: SGD on F_i from w^t;    v_i <- v_i - eta (grad F_i(v_i) + mu (v_i - w^t))

v_i begins as the first w^t that the client is sent.
"""

import torch
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.own_part import one_architecture, remember, remembered
from client_app.sgd import local_sgd
from common.data.client import ClientData
from common.methods.ditto import Down, Up
from common.sgd import LocalSgd
from common.tensors import Tensors

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """SGD on w from the global model, and on v_i, held near it."""
    theta = torch.tensor(down.model.vector)
    device.start(down.buffers)
    vector, loss = local_sgd(theta, device.images, device.gradient, down.sgd, down.seed)
    buffers = device.model.buffers
    change = down.model.with_vector(vector.sub_(theta).numpy(force=True))
    kept = remembered(device, "ditto", before=down.round) or _fresh(down)
    sgd = down.sgd.model_copy(update={"epochs": down.own_epochs})
    own, own_loss = _held(down, device, kept, device.images, sgd, down.seed + 1)
    remember(device, "ditto", down.round, own=own, buffers=device.model.buffers)
    return Up(down.round, device.examples, loss, change, buffers, own_loss)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """v_i; that of a new client is the global model after ``steps`` passes held near it."""
    kept = remembered(device, "ditto")
    if kept is None:
        support = (data.support_images, data.support_labels)
        sgd = down.sgd.model_copy(update={"epochs": steps})
        kept = _fresh(down)
        if steps:
            own, _ = _held(down, device, kept, support, sgd, data.client + 1)
            kept = {"own": own, "buffers": device.model.buffers}
    device.model.load_tensors(kept["own"])
    device.model.load_buffers(kept["buffers"])
    return device.model.module


def _fresh(down: Down) -> dict[str, Tensors]:
    return {"own": down.model, "buffers": down.buffers}


def _held(
    down: Down, device: Device, start: dict[str, Tensors], data: Batch, sgd: LocalSgd, seed: int
) -> tuple[Tensors, float]:
    """SGD on F_i(v) + mu / 2 ||v - w^t||^2; the loss is without the second term."""
    theta = torch.tensor(down.model.vector)
    device.start(start["buffers"])

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        grad, loss = device.gradient(vector, batch)
        return grad.add_(vector - theta, alpha=down.mu), loss

    own, loss = local_sgd(torch.tensor(start["own"].vector), data, gradient, sgd, seed)
    return down.model.with_vector(own.numpy(force=True)), loss
