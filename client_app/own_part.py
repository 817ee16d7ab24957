"""What a client has of its own of a network of the run's architecture: it stays with the client."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.sgd import local_sgd
from common.data.client import ClientData
from common.errors import SettingsError
from common.sgd import LocalSgd
from common.tensors import Tensors


class Network(Protocol):
    """What a ``Down`` has of a network that clients share in part."""

    @property
    def round(self) -> int:
        """t, from 1."""

    @property
    def model(self) -> Tensors:
        """The shared part and, in place of the client's own, what one without it begins with."""

    @property
    def buffers(self) -> Tensors:
        """Likewise."""

    @property
    def own(self) -> list[str]:
        """Names of the parameters and buffers that are the client's own."""


def one_architecture(device: Device) -> None:
    """Before the run: a network that is shared in part is of the run's architecture.

    Raises
    ------
    SettingsError: the device's own model is to be another.
    """
    if device.own_model not in ("", device.task.architecture):
        raise SettingsError(
            f"own-model={device.own_model}: personal models of this method have the architecture "
            f"of the run, {device.task.architecture}: leave own-model and own-models out"
        )


def remembered(
    device: Device, name: str, before: int | None = None
) -> tuple[Tensors, Tensors] | None:
    """Parameters and buffers that a client which trains has kept, if there are any.

    Parameters
    ----------
    before: take the newest that were kept in an earlier round than this one, because a round may
        be played again.
    """
    kept = device.memory.read(name, before=before) if device.role == "source" else None
    return None if kept is None else (kept[0]["own"], kept[0]["buffers"])


def remember(device: Device, name: str, own: Tensors, buffers: Tensors, round: int) -> None:
    """Keep them; those of the round before stay, in case that this one is played again."""
    device.memory.write(name, {"own": own, "buffers": buffers}, {}, round)


def open_network(device: Device, name: str, down: Network, before: int | None = None) -> bool:
    """Make the device's network that of the client; says whether it has a part of its own.

    A client that has all of it needs nothing of ``down``. See ``remembered``.
    """
    kept, model = remembered(device, name, before), device.model
    if kept is not None and kept[0].specs == model.parameters.specs:
        model.load_tensors(kept[0])
        model.load_buffers(kept[1])
        return True
    model.load_buffers(down.buffers)
    if kept is None or {spec[0] for spec in kept[0].specs} - set(down.own):
        model.load_tensors(down.model)
        return False
    model.load_tensors(down.model.merged(kept[0]))
    model.load_buffers(kept[1])
    return True


def keep_part(device: Device, name: str, down: Network) -> tuple[Tensors, Tensors]:
    """Keep the client's own part of the device's network.

    Returns the change of the shared part since ``down``, and its buffers.
    """
    now, buffers, own = device.model.parameters, device.model.buffers, set(down.own)
    remember(device, name, now.only(own), buffers.only(own), down.round)
    change = now.with_vector(now.vector - down.model.vector)
    return change.without(own), buffers.without(own)


def learn(
    device: Device, data: Batch, sgd: LocalSgd, seed: int, only: Collection[str] | None = None
) -> float:
    """Local SGD on the device's network, in place; gives the mean loss, nats.

    Parameters
    ----------
    only: names of the parameters that move; without it, all do.
    """
    model, module = device.model, device.model.module
    named = dict(module.named_parameters())
    chosen = set(named) if only is None else set(only) & set(named)
    moving = _slices(named, chosen)
    module.train()

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        _put(model.vector, moving, vector)
        slope, loss = model.gradient(lambda: F.cross_entropy(module(batch[0]), batch[1]))
        return _take(slope, moving), loss

    if not chosen:
        return 0.0
    try:
        for name, parameter in named.items():
            parameter.requires_grad_(name in chosen)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of dropout
            vector, loss = local_sgd(_take(model.vector, moving), data, gradient, sgd, seed)
    finally:
        module.requires_grad_(True)
    _put(model.vector, moving, vector)
    return loss


def learn_anew(
    device: Device, data: ClientData, sgd: LocalSgd, steps: int, only: Collection[str] | None = None
) -> None:
    """What a new client does: ``steps`` passes over its support images."""
    images = (data.support_images, data.support_labels)
    # The same seed in each round, so that evaluations can be compared.
    learn(device, images, sgd.model_copy(update={"epochs": steps}), data.client + 1, only)


def _slices(named: dict[str, nn.Parameter], chosen: Collection[str]) -> list[slice]:
    """Where the chosen parameters are in the vector of all; neighbours are one."""
    found: list[slice] = []
    position = 0
    for name, parameter in named.items():
        start, position = position, position + parameter.numel()
        if name in chosen:
            joins = bool(found) and found[-1].stop == start
            found.append(slice(found.pop().start if joins else start, position))
    return found


def _take(vector: Tensor, parts: list[slice]) -> Tensor:
    return vector[parts[0]] if len(parts) == 1 else torch.cat([vector[part] for part in parts])


def _put(vector: Tensor, parts: list[slice], values: Tensor) -> None:
    start = 0
    for part in parts:
        size = part.stop - part.start
        vector[part] = values[start : start + size]
        start += size
