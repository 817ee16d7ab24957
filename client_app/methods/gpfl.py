"""GPFL, the device's half (arXiv 2308.10279): global and personal features at the same time.

    L = CE(h_i(f_P), y) - log softmax_c(cos(f_G, e_c))_y + lambda mean ||f_G - e_y||
        + mu / 2 (||e||^2 + ||valve||^2)

f_G and f_P are the body's features through the valve, under the contexts mean_c e_c and
sum_c (n_i^c / n_i) e_c. In the contexts and in the third term the embeddings are those that the
round began with.
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
from common.methods.gpfl import Down, Up
from common.models import FlatModel, parts
from common.models.conditional import Guided
from common.tensors import Tensors

prepare = one_architecture
_SHARES = "gpfl-shares"


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on all of it."""
    whole = _network(device)
    open_network(device, "gpfl", down, before=down.round, network=whole)
    model, shares = _guided(whole), _shares(device.images[1], len(device.classes))
    model.hold(shares)
    held = Tensors.pack({"shares": shares.numpy(force=True)})
    device.memory.write(_SHARES, {"shares": held}, {}, down.round)
    loss = learn(device, device.images, down.sgd, down.seed, network=whole, loss=_loss(down, model))
    return Up(down.round, device.examples, loss, *keep_part(device, "gpfl", down, whole))


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """Personal features and head; a new client's head learns ``steps`` passes."""
    whole = _network(device)
    there = open_network(device, "gpfl", down, network=whole)
    model, kept = _guided(whole), device.memory.read(_SHARES) if there else None
    if kept:
        model.hold(torch.tensor(kept[0]["shares"].vector))
    else:
        model.hold(_shares(data.support_labels, len(device.classes)))
    if not there and steps:
        learn_anew(device, data, down.sgd, steps, down.own, whole, _loss(down, model))
    return model


def _loss(down: Down, model: Guided) -> Loss:
    head = parts.head(model.network)

    def minimised(images: Tensor, labels: Tensor) -> Tensor:
        general, personal = model.both(images)
        cosines = F.normalize(general, dim=1) @ F.normalize(model.classes, dim=1).T
        apart = (general - model.fixed[labels]).norm(dim=1).mean()
        shared = [model.classes, *model.valve.parameters()]
        decay = torch.stack([part.square().sum() for part in shared]).sum() if down.decay else 0.0
        found: Tensor = (
            F.cross_entropy(head(personal), labels)
            + F.cross_entropy(cosines, labels)
            + down.magnitude * apart
            + down.decay / 2 * decay
        )
        return found

    return minimised


def _network(device: Device) -> FlatModel:
    return FlatModel(Guided(device.task.build()))


def _guided(whole: FlatModel) -> Guided:
    assert isinstance(whole.module, Guided)
    return whole.module


def _shares(labels: Tensor, classes: int) -> Tensor:
    return labels.bincount(minlength=classes).float() / max(len(labels), 1)
