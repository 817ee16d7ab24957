"""FML, the device's half (arXiv 2006.16765): a shared and an own model teach each other.

    L_own    = alpha CE + (1 - alpha) KL(p_shared || p_own)
    L_shared = beta CE + (1 - beta) KL(p_own || p_shared)

Each loss moves its own model alone: the other's answer is a constant in it, as in deep mutual
learning (Zhang et al., 2018). The own model stays in the device's memory from round to round; a
device that has lost it begins with a new one.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.mutual import Losses, learn_both
from client_app.own_model import keep, new_model, recall
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
    device.start(down.buffers)

    def losses(inputs: Tensor, answers: Tensor) -> Losses:
        mine, theirs = own.module(inputs), device.model.module(inputs)
        hard, own_hard = F.cross_entropy(theirs, answers), F.cross_entropy(mine, answers)
        return Losses(
            down.beta * hard + (1 - down.beta) * kl(theirs, mine.detach(), 1.0),
            down.alpha * own_hard + (1 - down.alpha) * kl(mine, theirs.detach(), 1.0),
            hard,
            own_hard,
        )

    return learn_both(device, own, down.model.vector, data, losses, sgd, seed)
