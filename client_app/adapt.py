"""Adapt a meta-model to a few labelled images and judge it: what a new device does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.device import Device
from common.data.client import ClientData
from common.evaluation import Down, Up
from common.models import FlatModel

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def adapt(
    model: FlatModel, theta: Tensor, support: tuple[Tensor, Tensor], alpha: float, steps: int
) -> Tensor:
    """``steps`` full-batch gradient steps of rate ``alpha`` from ``theta``, shape (d,)."""
    images, labels = support
    vector = theta.clone()
    model.module.train()
    for _ in range(steps):
        model.load(vector)
        slope, _ = model.gradient(lambda: F.cross_entropy(model.module(images), labels))
        vector.sub_(slope, alpha=alpha)
    return vector


def judge(model: FlatModel, vector: Tensor, data: ClientData, statistics: str) -> tuple[int, float]:
    """Right answers and mean cross-entropy (nats) on the query set.

    Parameters
    ----------
    statistics: where BatchNorm's mean and variance come from. "support": the device's own support
        images, so that no query image influences the answer to another; "query": the query
        batch, as in the published evaluation, which is transductive; "running": the averages
        that came with the model. Models without BatchNorm give the same answer for all three.
    """
    module = model.module
    model.load(vector)
    norms = [layer for layer in module.modules() if isinstance(layer, _NORMS)]
    with torch.no_grad():
        if norms and statistics == "support":
            _take_statistics(module, norms, data.support_images)
        module.train(bool(norms) and statistics == "query")
        logits = module(data.query_images)
    correct = int((logits.argmax(1) == data.query_labels).sum())
    return correct, float(F.cross_entropy(logits, data.query_labels))


def evaluate(down: Down, device: Device) -> Up:
    """Judge the model before and after adaptation for each client that the node plays."""
    model, theta = device.model, torch.tensor(down.model.vector)
    up = Up([], [], [], [], [], [])
    for data in device.clients:
        model.load_buffers(down.buffers)
        before, loss_before = judge(model, theta, data, down.statistics)
        adapted = adapt(
            model, theta, (data.support_images, data.support_labels), down.alpha, down.steps
        )
        model.load_buffers(down.buffers)
        after, loss_after = judge(model, adapted, data, down.statistics)
        up.clients.append(data.client)
        up.examples.append(len(data.query_labels))
        up.correct_before.append(before)
        up.correct_after.append(after)
        up.loss_before.append(loss_before)
        up.loss_after.append(loss_after)
    return up


def _take_statistics(module: nn.Module, norms: Sequence[nn.Module], images: Tensor) -> None:
    """Set BatchNorm's running statistics to those of ``images``."""
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()  # type: ignore[operator]
        layer.momentum = None  # type: ignore[assignment]  # a plain average over what is seen
    module.train()
    module(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
