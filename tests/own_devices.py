"""Devices with models of their own, without a wire, for tests of methods."""

from __future__ import annotations

from typing import Any

import torch

from client_app.device import Device
from common.data.client import ClientData
from common.models import FlatModel, build
from common.task import Task
from server_app.method import Setup
from tests.quadratic import DictMemory

TASK = Task("cnn-tiny", 3, 1, 8)


def device(
    own_model: str = "cnn-tiny", n: int = 12, seed: int = 0, labels: tuple[int, ...] = (0, 1, 2)
) -> Device:
    """A source with ``n`` random images of 8x8 pixels, whose classes come in turn."""
    dice = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 8, 8, generator=dice)
    classes = torch.tensor([labels[i % len(labels)] for i in range(n)])
    data = ClientData(images[:4], classes[:4], images[4:], classes[4:], labels, 0)
    model = FlatModel(build("cnn-tiny", classes=3, channels=1, image_size=8))
    memory: Any = DictMemory()
    return Device("source", [data], ("a", "b", "c"), "", model, memory, own_model, task=TASK)


def setup(seed: int = 0) -> Setup:
    """Of a run for such devices."""
    model = FlatModel(build("cnn-tiny", classes=3, channels=1, image_size=8))
    return Setup(model.parameters, model.buffers, seed, TASK)
