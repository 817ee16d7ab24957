"""LoRA with ranks by device, the device's half: local SGD on factors of the client's own rank."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from client_app.device import Device
from client_app.own_part import learn, one_architecture
from common.errors import WireError
from common.methods.lora import Down, Up
from common.models import FlatModel
from common.models.light import with_rank
from common.task import Task

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the factors that it was sent."""
    architecture = with_rank(device.task.architecture, down.rank)
    network = _network(replace(device.task, architecture=architecture))
    if network.specs != down.model.specs:
        raise WireError(
            f"the server's factors of rank {down.rank} are none of this device's network: their "
            "releases differ"
        )
    network.load_tensors(down.model)
    loss = learn(device, device.images, down.sgd, down.seed, network=network)
    change = network.parameters.vector - down.model.vector
    return Up(down.round, device.examples, loss, down.model.with_vector(change))


@lru_cache(maxsize=4)
def _network(task: Task) -> FlatModel:
    """What it holds at first means nothing."""
    return FlatModel(task.build())
