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
from torch import Tensor

from client_app.batches import Batch
from client_app.device import Device
from client_app.distillation import kl
from client_app.sgd import local_sgd
from common.methods.fml import Down, Up
from common.models import FlatModel, build


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on both models, side by side."""
    images, labels = device.images
    shared, own = device.model, _own_model(device, images, down)
    theta = torch.tensor(down.model.vector)
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
        slope, _ = shared.gradient(
            lambda: down.beta * hard + (1 - down.beta) * kl(theirs, mine.detach(), 1.0)
        )
        own_slope, _ = own.gradient(
            lambda: down.alpha * own_hard + (1 - down.alpha) * kl(mine, theirs.detach(), 1.0)
        )
        own_loss, seen = own_loss + float(own_hard.detach()) * len(answers), seen + len(answers)
        return torch.cat([slope, own_slope]), float(hard.detach())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(down.seed)  # of dropout
        vector, loss = local_sgd(
            torch.cat([theta, own.vector]), (images, labels), gradient, down.sgd, down.seed
        )
    own.load(vector[len(theta) :])
    _keep(device, own, down.round)
    change = vector[: len(theta)].sub_(theta).numpy()
    return Up(
        round=down.round,
        change=down.model.with_vector(change),
        buffers=shared.buffers,
        examples=len(labels),
        loss=loss,
        own_loss=own_loss / max(seen, 1),
    )


def _own_model(device: Device, images: Tensor, down: Down) -> FlatModel:
    """The device's own model as it was before this round, or a new one."""
    _, channels, _, size = images.shape
    module = build(
        device.own_model, classes=len(device.classes), channels=channels, image_size=size,
        seed=down.seed,
    )  # fmt: skip
    own = FlatModel(module)
    memory = device.memory.read("fml", before=down.round)
    if memory is not None and memory[0]["own"].specs == own.parameters.specs:
        groups, _ = memory
        own.load(torch.tensor(groups["own"].vector))
        own.load_buffers(groups["buffers"])
    return own


def _keep(device: Device, own: FlatModel, round: int) -> None:
    groups = {"own": own.parameters, "buffers": own.buffers}
    device.memory.write("fml", groups, {"architecture": device.own_model}, round)
