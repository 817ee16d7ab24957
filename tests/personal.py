"""Devices and servers of methods with personal models, on a small network without a wire."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
import torch

import client_app.methods.fedavg
import server_app.methods.fedavg
from client_app.device import Device
from common.data.client import ClientData
from common.models import FlatModel
from common.task import Task
from server_app.method import Setup
from tests.quadratic import DictMemory, play

TASK = Task("cnn-tiny", classes=3, channels=1, image_size=8)
SGD = {"lr": 0.05, "momentum": 0.9, "epochs": 2, "batch-size": 5, "weight-decay": 0.01}


def device(
    seed: int = 0, n: int = 12, architecture: str = "cnn-tiny", role: Any = "source"
) -> Device:
    """A client with ``n`` random images of three classes."""
    dice = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(n, 1, 8, 8, generator=dice), torch.arange(n) % 3
    data = ClientData(images[:4], labels[:4], images[4:], labels[4:], (0, 1, 2), seed)
    task = Task(architecture, 3, 1, 8)
    model = FlatModel(task.build())
    return Device(role, [data], ("a", "b", "c"), "", model, DictMemory(), architecture, task=task)


def server(half: ModuleType, settings: dict[str, Any], architecture: str = "cnn-tiny") -> Any:
    """The server half of a method, with a fresh network."""
    task = Task(architecture, 3, 1, 8)
    model = FlatModel(task.build())
    setup = Setup(model.parameters, model.buffers, seed=3, task=task)
    return half.Server(half.Settings.model_validate(settings), setup)


def fedavg(
    rounds: Iterable[int], sgd: dict[str, Any] | None = None, architecture: str = "cnn-tiny"
) -> Any:
    """FedAvg's server half after these rounds with three clients."""
    one = server(server_app.methods.fedavg, {"sgd": SGD if sgd is None else sgd}, architecture)
    train = client_app.methods.fedavg.train
    play(one, train, [device(i, 12 + i, architecture) for i in range(3)], rounds)
    return one


def run(
    half: ModuleType,
    train: Any,
    settings: dict[str, Any],
    rounds: Iterable[int],
    architecture: str = "cnn-tiny",
) -> tuple[Any, list[Device]]:
    """Server half and devices after these rounds with three clients."""
    one = server(half, {"sgd": SGD} | settings, architecture)
    devices = [device(i, 12 + i, architecture) for i in range(3)]
    play(one, train, devices, rounds)
    return one, devices


def answers(module: torch.nn.Module, one: Device | ClientData) -> np.ndarray[Any, Any]:
    """Scores of a model on all images of a client that trains, or the query images of any."""
    images = one.images[0] if isinstance(one, Device) else one.query_images
    with torch.no_grad():
        return module.eval()(images).numpy()  # type: ignore[no-any-return]
