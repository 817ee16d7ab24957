"""What a device measures of itself before it takes part: free memory, and the time of a step."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from client_app.device import Device
from common.free_memory import free_memory

STEPS = 3
"""Timed, after one that is not; the fastest counts, for others may work on the device."""


def measured(device: Device, width: float, batch: int) -> tuple[int, float]:
    """Free memory in bytes, and seconds of a gradient step on the network cut to a width.

    Parameters
    ----------
    width: 0 measures nothing.
    batch: images a step; 0 takes all that the device has to train or adapt on.
    """
    if not width:
        return 0, 0.0
    free = free_memory() or 0
    data = device.clients[0]
    images, labels = data.support_images, data.support_labels
    if device.role == "source":
        images, labels = device.images
    chosen = torch.arange(batch or len(labels)) % len(labels)
    images, labels = images[chosen], labels[chosen]
    model = device.at_width(width)
    model.load(torch.zeros_like(model.vector))
    model.module.train()
    seconds = []
    for _ in range(1 + STEPS):
        begun = time.perf_counter()
        model.gradient(lambda: F.cross_entropy(model.module(images), labels))
        seconds.append(time.perf_counter() - begun)
    return free, min(seconds[1:])
