"""FedCP, the device's half (arXiv 2307.01217): every feature is divided between two heads.

    L = CE(h_i(s f(x)) + h_g((1 - s) f(x)), y) + lambda MMD(f(x), f_g(x)),    s = policy(f(x) v)

with v the normalised sum of the rows of h_i's weight, and h_g and f_g, the global head and body,
fixed. What goes up as the global head is 1/2 (h_i + h_g).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.device import Device
from client_app.own_part import (
    Loss,
    keep_part,
    learn,
    learn_anew,
    one_architecture,
    open_network,
)
from common.data.client import ClientData
from common.discrepancy import mmd
from common.methods.fedcp import Down, Up
from common.models import FlatModel, parts
from common.models.conditional import Separated

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on body, personal head and policy."""
    whole = _network(device)
    open_network(device, "fedcp", down, before=down.round, network=whole)
    model = _separated(whole)
    loss = learn(
        device,
        device.images,
        down.sgd,
        down.seed,
        _moving(model),
        whole,
        _loss(down, device, model),
    )
    with torch.no_grad():
        head = parts.head(model.network)
        for mine, general in zip(head.parameters(), model.general.parameters(), strict=True):
            general.lerp_(mine, 0.5)
    return Up(down.round, device.examples, loss, *keep_part(device, "fedcp", down, whole))


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """Both heads behind the shared body; a new client's own learns ``steps`` passes."""
    whole = _network(device)
    model = _separated(whole)
    if not open_network(device, "fedcp", down, network=whole) and steps:
        learn_anew(device, data, down.sgd, steps, down.own, whole)
    return model


def _loss(down: Down, device: Device, model: Separated) -> Loss:
    fixed = _separated(_opened(down, device)).eval()

    def minimised(images: Tensor, labels: Tensor) -> Tensor:
        features = model.features(images)
        with torch.no_grad():
            general = fixed.features(images)
        return F.cross_entropy(model.logits(features), labels) + down.pull * mmd(features, general)

    return minimised


def _opened(down: Down, device: Device) -> FlatModel:
    whole = _network(device)
    whole.load_tensors(down.model)
    whole.load_buffers(down.buffers)
    return whole


def _moving(model: Separated) -> list[str]:
    return [name for name, _ in model.named_parameters() if not name.startswith("general.")]


def _network(device: Device) -> FlatModel:
    return FlatModel(Separated(device.task.build()))


def _separated(whole: FlatModel) -> Separated:
    assert isinstance(whole.module, Separated)
    return whole.module
