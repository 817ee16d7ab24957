"""A client's own model: of its own architecture, kept from round to round, never sent."""

from __future__ import annotations

import torch

from client_app.device import Device
from common.models import FlatModel


def new_model(device: Device, seed: int) -> FlatModel:
    """A freshly initialised model of the device's own architecture."""
    return FlatModel(device.task.build(device.own_model, seed))


def recall(device: Device, name: str, model: FlatModel, before: int | None = None) -> bool:
    """Load what was kept under ``name``, if there is such a model; says whether there was.

    Parameters
    ----------
    before: take the newest that was kept in an earlier round than this one, because a round may
        be played again.
    """
    kept = device.memory.read(name, before=before) if device.role == "source" else None
    if kept is None or kept[0]["own"].specs != model.parameters.specs:
        return False
    model.load(torch.tensor(kept[0]["own"].vector))
    model.load_buffers(kept[0]["buffers"])
    return True


def keep(device: Device, name: str, model: FlatModel, round: int) -> None:
    """Keep the model; that of the round before stays, in case that this one is played again."""
    groups = {"own": model.parameters, "buffers": model.buffers}
    device.memory.write(name, groups, {"architecture": device.own_model}, round)
