"""FedKD, the device's half (Wu et al., Nature Communications 2022): a mentor and a mentee.

    L_mentor = CE_m + (KL(p_g || p_m) + MSE(f_m, W f_g)) / (CE_m + CE_g)
    L_mentee = CE_g + (KL(p_m || p_g) + MSE(f_m, W f_g)) / (CE_m + CE_g)

m is the mentor, which is the device's own, g the mentee, f are features. Each loss moves its own
model alone, and the first W as well; the divisor is a constant in both. In the published program
gradients of each loss reach both models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.features import newcomer_seed
from client_app.mutual import Losses, learn_both
from client_app.own_model import keep, recall
from common import low_rank
from common.data.client import ClientData
from common.divergence import kl
from common.errors import DataError
from common.methods.fedkd import Down, Up
from common.models import FlatModel, features_and_logits
from common.models.parts import feature_size
from common.sgd import LocalSgd
from common.tensors import Tensors, Vector

_MENTEE = "fedkd-mentee"


class Mentor(nn.Module):
    """The device's own network, and W from the mentee's features to its own."""

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.network = network
        self.project = nn.Linear(width, feature_size(network), bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """The mentor's answer."""
        logits: Tensor = self.network(images)
        return logits


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on both models, side by side."""
    mentee = _mentee(down, device)
    own = _mentor(device, down.seed)
    recall(device, "fedkd", own, before=down.round)
    change, loss, own_loss = _learn(
        down, device, own, mentee.vector, device.images, down.sgd, down.seed
    )
    keep(device, "fedkd", own, down.round)
    device.memory.write(_MENTEE, {"model": mentee}, {"version": down.version}, down.round)
    sent = low_rank.cut(mentee.with_vector(change), down.energy)
    buffers = device.model.buffers
    return Up(down.round, device.examples, loss, sent, buffers, own_loss)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The mentor; that of a new client first learns beside the mentee, ``steps`` passes."""
    own = _mentor(device, seed := newcomer_seed(data))
    if not recall(device, "fedkd", own) and steps:
        support = (data.support_images, data.support_labels)
        sgd = down.sgd.model_copy(update={"epochs": steps})
        _learn(down, device, own, _mentee(down, device).vector, support, sgd, seed)
    network: nn.Module = own.module.network  # type: ignore[assignment]
    return network


def _mentor(device: Device, seed: int) -> FlatModel:
    network = device.task.build(device.own_model, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FlatModel(Mentor(network, feature_size(device.model.module)))


def _mentee(down: Down, device: Device) -> Tensors:
    """The mentee that the server means.

    Raises
    ------
    DataError: this device does not have what the update starts from; it will be sent the whole one
        next time.
    """
    if down.model is not None:
        return down.model
    for before in (None, down.round):
        kept = device.memory.read(_MENTEE, before=before)
        if kept is not None and down.change is not None:
            groups, notes = kept
            if notes["version"] == down.version:
                return groups["model"]
            if notes["version"] == down.base:
                return low_rank.moved(groups["model"], down.change)
    raise DataError(f"this device has lost version {down.base} of the mentee")


def _learn(
    down: Down,
    device: Device,
    own: FlatModel,
    theta: Vector,
    data: Batch,
    sgd: LocalSgd,
    seed: int,
) -> tuple[Vector, float, float]:
    """Train both models; gives the change of the mentee, its loss and that of the mentor."""
    device.start(down.buffers)
    mentor: Mentor = own.module  # type: ignore[assignment]

    def losses(inputs: Tensor, answers: Tensor) -> Losses:
        features, mine = features_and_logits(mentor.network, inputs)
        seen, theirs = features_and_logits(device.model.module, inputs)
        own_hard, hard = F.cross_entropy(mine, answers), F.cross_entropy(theirs, answers)
        divisor = (own_hard + hard).detach().clamp(min=1e-6)
        weight = mentor.project.weight
        away = F.mse_loss(F.linear(seen, weight.detach()), features.detach())
        own_away = F.mse_loss(features, F.linear(seen.detach(), weight))
        return Losses(
            hard + (kl(theirs, mine.detach(), 1.0) + away) / divisor,
            own_hard + (kl(mine, theirs.detach(), 1.0) + own_away) / divisor,
            hard,
            own_hard,
        )

    return learn_both(device, own, theta, data, losses, sgd, seed, down.clip)
