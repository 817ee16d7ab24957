"""LG-FedAvg, the device's half (Liang et al., 2020): an own body under a head that all share."""

from torch import nn

from client_app.device import Device
from client_app.features import entropy, learn, new_own, newcomer_seed, use_now
from client_app.own_model import keep, recall
from common.data.client import ClientData
from common.methods.lg_fedavg import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on body and head."""
    own = new_own(device, down.seed, down.width)
    recall(device, "lg_fedavg", own, before=down.round)
    own.load_head(down.head)
    loss = learn(own, device.images, entropy(own), down.sgd, down.seed)
    keep(device, "lg_fedavg", own, down.round)
    return Up(down.round, device.examples, loss, own.head_since(down.head))


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own body under the shared head; that of a new client learns with it."""
    own = new_own(device, newcomer_seed(data), down.width)
    use_now(device, "lg_fedavg", own, data, steps, entropy(own), down.sgd, down.head)
    return own.module
