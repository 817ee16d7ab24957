"""What a client has of its own of a network of the run's architecture: it stays with the client."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.sgd import local_sgd
from common.data.client import ClientData
from common.errors import SettingsError
from common.models import FlatModel
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


class Trained(Network, Protocol):
    """With the training of it."""

    @property
    def sgd(self) -> LocalSgd:
        """Local training."""


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


def remembered(device: Device, name: str, before: int | None = None) -> dict[str, Tensors] | None:
    """What ``remember`` has kept of a client that trains, if there is anything.

    Parameters
    ----------
    before: take the newest that was kept in an earlier round than this one, because a round may be
        played again.
    """
    kept = device.memory.read(name, before=before) if device.role == "source" else None
    return None if kept is None else kept[0]


def remember(
    device: Device, name: str, round: int, *, own: Tensors, buffers: Tensors, **more: Tensors
) -> None:
    """Keep them; those of the round before stay, in case that this one is played again."""
    device.memory.write(name, {"own": own, "buffers": buffers, **more}, {}, round)


def open_network(
    device: Device,
    name: str,
    down: Network,
    before: int | None = None,
    network: FlatModel | None = None,
) -> bool:
    """Make a network that of the client; says whether the client has a part of its own.

    A client that has all of it needs nothing of ``down``. See ``remembered``.

    Parameters
    ----------
    network: by default the device's.
    """
    kept, model = remembered(device, name, before), network or device.model
    if kept is not None and kept["own"].specs == model.specs:
        model.load_tensors(kept["own"])
        model.load_buffers(kept["buffers"])
        return True
    model.load_buffers(down.buffers)
    if kept is None or {spec[0] for spec in kept["own"].specs} - set(down.own):
        model.load_tensors(down.model)
        return False
    model.load_tensors(down.model.merged(kept["own"]))
    model.load_buffers(kept["buffers"])
    return True


def keep_part(
    device: Device, name: str, down: Network, network: FlatModel | None = None
) -> tuple[Tensors, Tensors]:
    """Keep the client's own part of a network, by default the device's.

    Returns the change of the shared part since ``down``, and its buffers.
    """
    model, own = network or device.model, set(down.own)
    now, buffers = model.parameters, model.buffers
    remember(device, name, down.round, own=now.only(own), buffers=buffers.only(own))
    change = now.with_vector(now.vector - down.model.vector)
    return change.without(own), buffers.without(own)


class Part:
    """Some of a network's parameters as one vector."""

    def __init__(self, module: nn.Module, names: Collection[str]) -> None:
        self._named = dict(module.named_parameters())
        self._names = set(names) & set(self._named)
        self.moving: list[slice] = []  # of the vector of all; neighbours are one
        position = 0
        for name, parameter in self._named.items():
            start, position = position, position + parameter.numel()
            if name in self._names:
                joins = bool(self.moving) and self.moving[-1].stop == start
                self.moving.append(slice(self.moving.pop().start if joins else start, position))

    def take(self, vector: Tensor) -> Tensor:
        """The part of a vector of all parameters."""
        parts = [vector[part] for part in self.moving]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def put(self, vector: Tensor, values: Tensor) -> None:
        """Write the part into a vector of all parameters."""
        start = 0
        for part in self.moving:
            size = part.stop - part.start
            vector[part] = values[start : start + size]
            start += size

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No gradient is computed but that of the part."""
        try:
            for name, parameter in self._named.items():
                parameter.requires_grad_(name in self._names)
            yield
        finally:
            for parameter in self._named.values():
                parameter.requires_grad_(True)


Loss = Callable[[Tensor, Tensor], Tensor]
"""(images, labels) -> what is minimised, a scalar."""


def learn(
    device: Device,
    data: Batch,
    sgd: LocalSgd,
    seed: int,
    only: Collection[str] | None = None,
    network: FlatModel | None = None,
    loss: Loss | None = None,
) -> float:
    """Local SGD on a network, in place; gives the mean of what is minimised, nats.

    Parameters
    ----------
    only: names of the parameters that move; without it, all do.
    network: by default the device's.
    loss: by default the cross-entropy.
    """
    model = network or device.model
    part = Part(model.module, [spec[0] for spec in model.specs] if only is None else only)
    minimised = loss or (lambda images, labels: F.cross_entropy(model.module(images), labels))
    model.module.train()
    if not part.moving:
        return 0.0

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        part.put(model.vector, vector)
        grad, value = model.gradient(lambda: minimised(*batch))
        return part.take(grad), value

    with part.alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        vector, value = local_sgd(part.take(model.vector), data, gradient, sgd, seed)
    part.put(model.vector, vector)
    return value


def learn_anew(
    device: Device,
    data: ClientData,
    sgd: LocalSgd,
    steps: int,
    only: Collection[str] | None = None,
    network: FlatModel | None = None,
    loss: Loss | None = None,
) -> None:
    """What a new client does: ``steps`` passes over its support images."""
    images = (data.support_images, data.support_labels)
    # The same seed in each round, so that evaluations can be compared.
    alone = sgd.model_copy(update={"epochs": steps})
    learn(device, images, alone, data.client + 1, only, network, loss)


def whole_network(
    device: Device, name: str, down: Trained, data: ClientData, steps: int
) -> nn.Module:
    """What a client would use now: shared and own part; a new client's own one learns ``steps``
    passes, the shared one fixed."""
    if not open_network(device, name, down) and steps:
        learn_anew(device, data, down.sgd, steps, only=down.own)
    return device.model.module
