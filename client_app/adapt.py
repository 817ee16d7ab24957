"""Evaluate on a client's own images: the global model, adapted, or the client's personal one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.device import Device
from common.data.client import ClientData
from common.evaluation import Down, Up
from common.models import FlatModel
from common.tensors import Tensors

Personal = Callable[[Any, Device, ClientData, int], nn.Module]
"""(down, device, data, steps) -> what a client would use now, from images to scores of classes."""

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
        grad, _ = model.gradient(lambda: F.cross_entropy(model.module(images), labels))
        vector.sub_(grad, alpha=alpha)
    return vector


def in_use(
    model: FlatModel,
    theta: Tensor,
    buffers: Tensors,
    data: ClientData,
    alpha: float,
    steps: int,
    statistics: str,
) -> nn.Module:
    """The network that a client would use: adapted, and with BatchNorm statistics that last.

    Those of a "query" batch do not; the support images' take their place.
    """
    model.load_buffers(buffers)
    vector = adapt(model, theta, (data.support_images, data.support_labels), alpha, steps)
    model.load_buffers(buffers)
    model.load(vector)
    norms = [layer for layer in model.module.modules() if isinstance(layer, _NORMS)]
    if norms and statistics != "running":
        with torch.no_grad():
            _take_statistics(model.module, norms, data.support_images)
    return model.module.eval()


def measure(
    model: FlatModel, vector: Tensor, data: ClientData, statistics: str
) -> tuple[int, float]:
    """Right answers and mean cross-entropy (nats) on the client's images for evaluation.

    Parameters
    ----------
    statistics: where BatchNorm's mean and variance come from. "support": the device's own support
        images, so that no query image influences the answer to another; "query": the query
        batch, as in the published evaluation, which is transductive; "running": the averages
        that came with the model. Models without BatchNorm give the same answer for all three.
    """
    module, (images, labels) = model.module, data.evaluation
    model.load(vector)
    norms = [layer for layer in module.modules() if isinstance(layer, _NORMS)]
    with torch.no_grad():
        if norms and statistics == "support":
            _take_statistics(module, norms, data.support_images)
        module.train(bool(norms) and statistics == "query")
        logits = module(images)
    return int((logits.argmax(1) == labels).sum()), float(F.cross_entropy(logits, labels))


def evaluate(down: Down, device: Device) -> Up:
    """The global model before and after adaptation, for each client that the node plays."""
    model, theta = device.at_width(down.width), torch.tensor(down.model.vector)
    up = Up([], [], [], [], [], [], [])
    for data in device.clients:
        model.load_buffers(down.buffers)
        before, loss_before = measure(model, theta, data, down.statistics)
        adapted = adapt(
            model, theta, (data.support_images, data.support_labels), down.alpha, down.steps
        )
        model.load_buffers(down.buffers)
        after, loss_after = measure(model, adapted, data, down.statistics)
        _add(up, data, (before, loss_before), (after, loss_after))
    return up


def evaluate_personal(personal: Personal, down: Any, device: Device, steps: int) -> Up:
    """The model that the method has each client use now.

    Parameters
    ----------
    personal: the method's; with 0 steps it gives what a client has before it learns from its own
        images in this call, and a client that has trained gives the same model both times.
    """
    up = Up([], [], [], [], [], [], [])
    for data in device.clients:
        images, labels = data.evaluation
        found = []
        for taken in (0, steps):
            module = personal(down, device, data, taken).eval()
            with torch.no_grad():
                scores = module(images)
            correct = int((scores.argmax(1) == labels).sum())
            found.append((correct, float(F.cross_entropy(scores, labels))))
        _add(up, data, *found)
    return up


def _add(up: Up, data: ClientData, before: tuple[int, float], after: tuple[int, float]) -> None:
    _, labels = data.evaluation
    up.clients.append(data.client)
    up.examples.append(len(labels))
    up.commonest.append(int((labels == data.commonest).sum()))
    up.correct_before.append(before[0])
    up.correct_after.append(after[0])
    up.loss_before.append(before[1])
    up.loss_after.append(after[1])


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
