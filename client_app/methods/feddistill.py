"""FedDistill, the device's half (Jeong et al., 2018): towards the mean answer of all to a class.

    L = CE(z, y) + lambda CE(z, softmax(zbar^y))

zbar^y is the global mean of the logits for images of class y. The published program has it as the
target without softmax, which is no distribution. Own means are those of the trained model, not of
the model on the way to it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from client_app.device import Device
from client_app.features import Objective, by_class, class_means, learn, newcomer_seed, use_now
from client_app.own_model import keep, new_model, recall
from common.data.client import ClientData
from common.methods.feddistill import Down, Up
from common.models import FlatModel


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on the own model, then its mean logits."""
    own = new_model(device, down.seed)
    recall(device, "feddistill", own, before=down.round)
    loss = learn(own, device.images, _loss(down, own, device), down.sgd, down.seed)
    keep(device, "feddistill", own, down.round)
    logits = class_means(own.module, own.module, device.images)
    return Up(down.round, device.examples, loss, logits)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own model."""
    own = new_model(device, newcomer_seed(data))
    use_now(device, "feddistill", own, data, steps, _loss(down, own, device), down.sgd)
    return own.module


def _loss(down: Down, own: FlatModel, device: Device) -> Objective:
    rows, there = by_class(down.logits, len(device.classes))
    goals = rows.softmax(1)

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = own.module(images)
        hard, has = F.cross_entropy(logits, labels), there[labels]
        if not has.any():
            return hard, hard
        soft = F.cross_entropy(logits[has], goals[labels[has]], reduction="sum") / len(labels)
        return hard + down.pull * soft, hard

    return objective
