"""A device apart from any run: to use the model that would be its own.

A device that trains by a method with personal models notes in its memory what must be known to
build its model and to use it; the model is what the method keeps there under its own name.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from flwr.app import Context, RecordDict
from torch import nn

import client_app.methods
from client_app.device import Device
from client_app.memory import Kept, Memory
from common import registry
from common.config import RunSettings
from common.data.catalogue import moments
from common.data.client import ClientData
from common.errors import ModelError
from common.modelfile import Card, read_card
from common.models import FlatModel
from common.task import backbone_digest

_NAME = "device"
_OWN = "own-model"


def note(device: Device, settings: RunSettings) -> None:
    """Note how the device's own model is used; nothing is written where it is known."""
    card = card_of(device, settings)
    kept = device.memory.read(_NAME)
    if kept is None or kept[1].get(_OWN) != device.own_model or _card(kept[1]) != card:
        device.memory.write(_NAME, {}, {**asdict(card), _OWN: device.own_model})


def card_of(device: Device, settings: RunSettings) -> Card:
    """How the run's model is used on this device."""
    data, evaluated, task = settings.data, settings.evaluation, device.task
    return Card(
        settings.model, device.classes, data.channels, data.image_size,
        *moments(data.name, data.channels), evaluated.alpha, evaluated.steps, evaluated.statistics,
        settings.method, settings.run_name, task.backbone if task.tuning else "",
        backbone_digest(task),
    )  # fmt: skip


def own_model(folder: Path, down: object | None = None) -> tuple[nn.Module, Card]:
    """The model that a device which has trained would use now, by its method's ``personal``.

    Parameters
    ----------
    folder: the device's memory of one run: ``STATE-FOLDER/RUN``, or ``client-N`` in it.
    down: what the run sends new clients, where the method needs more than the device's memory.

    Raises
    ------
    ModelError: it is no device's memory, it holds no model of its own, or ``down`` is needed.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder: name a device's memory of one run")
    memory = _Trained(_context(), folder)
    kept = memory.read(_NAME)
    if kept is None:
        raise ModelError(
            f"{folder} is not the memory of a device with a model of its own: name its folder of "
            "one run, STATE-FOLDER/RUN or STATE-FOLDER/RUN/client-N, of a method that has such "
            "models, as fml does"
        )
    card = _card(kept[1])
    device = apart(card, "source", _no_images(card), kept[1][_OWN], memory)
    personal = registry.load(client_app.methods, card.method).personal
    module: nn.Module = personal(down or _NotSent(card.method), device, device.clients[0], 0)
    return module.eval(), of_architecture(card, device.own_model)


def of_architecture(card: Card, name: str) -> Card:
    """The card of a device's own model, which is used as the run's."""
    own = replace(card, architecture=name)
    return replace(own, backbone_digest=backbone_digest(own.task))


def apart(
    card: Card,
    role: Literal["source", "target"],
    data: ClientData,
    own: str,
    memory: Memory | None = None,
) -> Device:
    """A device that takes part in no run.

    Parameters
    ----------
    card: of a run; its architecture is that of the run's model.
    own: architecture of the device's own model.
    memory: what it has kept; nothing without it.
    """
    memory = memory or Memory(_context(), None)
    model = FlatModel(card.task.build())
    return Device(role, [data], card.classes, "", model, memory, own, task=card.task)


class _Trained(Memory):
    """Of a device that has trained: what its method looks for must be there."""

    def read(self, name: str, before: int | None = None) -> Kept | None:
        """What was written last; an error where there is nothing."""
        kept = super().read(name, before)
        if kept is None and name != _NAME:
            raise ModelError(
                f"{self._folder} holds no {name!r}, or a damaged one: the device has not trained"
            )
        return kept


def _context() -> Context:
    return Context(0, 0, {}, RecordDict(), {})


class _NotSent:
    """Stands for a ``Down`` where there is none."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __getattr__(self, name: str) -> NoReturn:
        raise ModelError(
            f"a device's model in {self._method} is made of its memory and of what the server "
            f"sends ({name}): name the folder of the run as well"
        )


def _card(notes: dict[str, Any]) -> Card:
    return read_card({key: value for key, value in notes.items() if key != _OWN}, Path(_NAME))


def _no_images(card: Card) -> ClientData:
    images = torch.zeros(0, card.channels, card.image_size, card.image_size)
    labels = torch.zeros(0, dtype=torch.int64)
    return ClientData(images, labels, images, labels, (), -1)
