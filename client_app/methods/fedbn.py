"""FedBN, the device's half (arXiv 2102.07623): SGD with normalisation layers of its own."""

from torch import nn

from client_app.device import Device
from client_app.own_part import keep_part, learn, one_architecture, open_network, whole_network
from common.data.client import ClientData
from common.methods.fedbn import Down, Up

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on all layers."""
    open_network(device, "fedbn", down, before=down.round)
    loss = learn(device, device.images, down.sgd, down.seed)
    return Up(down.round, device.examples, loss, *keep_part(device, "fedbn", down))


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """Shared and own layers; a new client's own ones learn ``steps`` passes, the others fixed."""
    return whole_network(device, "fedbn", down, data, steps)
