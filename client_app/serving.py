"""Keeps for ``augflower serve`` the model that a device would use now.

It is the one that an evaluation is of: the personal model of a method that has such, or the global
model, adapted to the device's own support images. A device meets it when the server sends the next
round's work or asks for an evaluation, so that what is kept rests on replies that the server took.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from client_app.adapt import in_use
from client_app.device import Device
from client_app.kept import card_of, of_architecture
from common.config import RunSettings
from common.data.client import ClientData
from common.errors import AugFlowerError
from common.evaluation import Down as Evaluated
from common.files import OWN, write_atomic
from common.modelfile import Card, model_bytes, named
from common.serving import IMAGES, MODEL, Labelled, save_images

log = logging.getLogger(__name__)


def keep(folder: Path, device: Device, down: Any, settings: RunSettings, half: Any) -> None:
    """Write the model that ``down`` makes, and the device's own held-out images, to ``folder``.

    What goes wrong is told, and keeps the device from nothing else.

    Parameters
    ----------
    down: the work of a round, or an evaluation.
    half: the method's on devices, or None.
    """
    try:
        data, card = device.clients[0], card_of(device, settings)
        with torch.random.fork_rng(devices=[]):  # what a round draws must not depend on this
            module = _module(device, data, down, settings, half)
        if module is None:
            return
        if hasattr(half, "personal"):
            card = of_architecture(card, device.own_model)
        content = model_bytes(*named(module, card), card)
        path = folder / MODEL
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content, OWN)
        if device.role == "target" or len(data.test_labels):
            save_images(folder / IMAGES, _pixels(device, card))
    except Exception as error:  # the round counts, whatever happens here
        said = error if isinstance(error, AugFlowerError) else repr(error)
        log.warning("no model is kept for augflower serve: %s", said)


def _module(
    device: Device, data: ClientData, down: Any, settings: RunSettings, half: Any
) -> nn.Module | None:
    if hasattr(half, "personal"):
        module: nn.Module = half.personal(down, device, data, settings.evaluation.steps)
        return module.eval()
    if not (hasattr(down, "model") and hasattr(down, "buffers")):
        return None
    how = down if isinstance(down, Evaluated) else settings.evaluation
    theta = torch.tensor(down.model.vector)
    return in_use(device.model, theta, down.buffers, data, how.alpha, how.steps, how.statistics)


def _pixels(device: Device, card: Card) -> Labelled:
    images, labels = device.clients[0].evaluation
    images = images if device.shown is None else device.shown.to(images.device)
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (card.mean, card.std))
    pixels = images.mul(std).add(mean).mul(255).round().clamp(0, 255)
    return pixels.to(torch.uint8).numpy(force=True), labels.numpy(force=True).astype(np.int64)
