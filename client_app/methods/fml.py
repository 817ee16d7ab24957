"""FML, the device's half (arXiv 2006.16765): a shared and an own model teach each other.

    L_own    = alpha CE + (1 - alpha) KL(p_shared || p_own)
    L_shared = beta CE + (1 - beta) KL(p_own || p_shared)

Each loss moves its own model alone: the other's answer is a constant in it, as in deep mutual
learning (Zhang et al., 2018). The own model stays in the device's memory from round to round; a
device that has lost it begins with a new one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.own_model import keep, new_model, recall
from client_app.sgd import local_sgd
from common.data.client import ClientData
from common.divergence import kl
from common.methods.fml import Down, Up
from common.models import FlatModel
from common.sgd import LocalSgd
from common.tensors import Vector


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on both models, side by side."""
    own = new_model(device, down.seed)
    recall(device, "fml", own, before=down.round)
    change, loss, own_loss = _learn(down, device, own, device.images, down.sgd, down.seed)
    keep(device, "fml", own, down.round)
    buffers = device.model.buffers
    return Up(down.round, device.examples, loss, down.model.with_vector(change), buffers, own_loss)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own model; that of a new client first learns beside the shared one, ``steps`` passes."""
    seed = data.client + 1  # the same in each round, so that evaluations can be compared
    own = new_model(device, seed)
    if not recall(device, "fml", own) and steps:
        support = (data.support_images, data.support_labels)
        _learn(down, device, own, support, down.sgd.model_copy(update={"epochs": steps}), seed)
    return own.module


def _learn(
    down: Down, device: Device, own: FlatModel, data: Batch, sgd: LocalSgd, seed: int
) -> tuple[Vector, float, float]:
    """Train both models; gives the change of the shared one, its loss and that of the own one."""
    shared, theta = device.model, torch.tensor(down.model.vector)
    device.start(down.buffers)
    own.module.train()
    own_loss, seen = 0.0, 0

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        nonlocal own_loss, seen
        inputs, answers = batch
        shared.load(vector[: len(theta)])
        own.load(vector[len(theta) :])
        mine, theirs = own.module(inputs), shared.module(inputs)
        hard = F.cross_entropy(theirs, answers)
        own_hard = F.cross_entropy(mine, answers)
        grad, _ = shared.gradient(
            lambda: down.beta * hard + (1 - down.beta) * kl(theirs, mine.detach(), 1.0)
        )
        own_grad, _ = own.gradient(
            lambda: down.alpha * own_hard + (1 - down.alpha) * kl(mine, theirs.detach(), 1.0)
        )
        own_loss, seen = own_loss + float(own_hard.detach()) * len(answers), seen + len(answers)
        return torch.cat([grad, own_grad]), float(hard.detach())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        vector, loss = local_sgd(torch.cat([theta, own.vector]), data, gradient, sgd, seed)
    own.load(vector[len(theta) :])
    change = vector[: len(theta)].sub_(theta).numpy()
    return change, loss, own_loss / max(seen, 1)
