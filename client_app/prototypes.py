"""What FedProto and its kin have in common on a device: learning towards prototypes of classes.

    L = CE(h(f(x)), y) + lambda ||f(x) - P^y||^2 / K

P^y is the global prototype of class y, shape (K,); where there is none the term is left out. The
answer to an image is the class of the nearest prototype, as published. Before there are any, it is
that of the head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.device import Device
from client_app.features import (
    Featured,
    Objective,
    Own,
    by_class,
    class_means,
    learn,
    new_own,
    newcomer_seed,
    use_now,
)
from client_app.own_model import keep, recall
from common.data.client import ClientData
from common.prototypes import Down
from common.tensors import Tensors


def train_towards(name: str, down: Down, device: Device) -> tuple[float, Tensors]:
    """One round on the device's own model, kept under ``name``: its cross-entropy in training and
    its own prototypes, by the model as it is afterwards."""
    own = new_own(device, down.seed, down.width)
    recall(device, name, own, before=down.round)
    loss = learn(own, device.images, towards(down, own), down.sgd, down.seed)
    keep(device, name, own, down.round)
    return loss, class_means(own.module.features, own.module, device.images)


def nearest(name: str, down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """What a client would use now."""
    own = new_own(device, newcomer_seed(data), down.width)
    use_now(device, name, own, data, steps, towards(down, own), down.sgd)
    rows, there = by_class(down.prototypes, len(device.classes))
    return Nearest(own.module, rows, there) if there.any() else own.module


def towards(down: Down, own: Own) -> Objective:
    """The loss above."""
    rows, there = by_class(down.prototypes, own.module.head.out_features)

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        features = own.module.features(images)
        hard = F.cross_entropy(own.module.head(features), labels)
        if not (has := there[labels]).any():
            return hard, hard
        apart = (features[has] - rows[labels[has]]).square().sum() / features.numel()
        return hard + down.pull * apart, hard

    return objective


class Nearest(nn.Module):
    """Scores of classes: minus the squared distance to their prototypes, but for a constant."""

    def __init__(self, own: Featured, rows: Tensor, there: Tensor) -> None:
        super().__init__()
        self.own = own
        self.there = there.tolist()
        self.centres = nn.Linear(own.width, int(there.sum()))
        with torch.no_grad():
            self.centres.weight.copy_(2 * rows[there])
            self.centres.bias.copy_(-rows[there].square().sum(1))

    def forward(self, images: Tensor) -> Tensor:
        """Shape (n, classes); a class without a prototype is never the nearest."""
        near: Tensor = self.centres(self.own.features(images))
        found = iter(near.unbind(1))
        none = near.amin(1) - 1
        return torch.stack([next(found) if here else none for here in self.there], 1)
