"""FedPer, the device's half (arXiv 1912.00818): SGD on base and personal layers together."""

from torch import nn

from client_app.device import Device
from client_app.own_part import keep_part, learn, one_architecture, open_network, whole_network
from common.data.client import ClientData
from common.methods.fedper import Down, Up

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the shared base and the client's personal layers."""
    open_network(device, "fedper", down, before=down.round)
    loss = learn(device, device.images, down.sgd, down.seed)
    return Up(down.round, device.examples, loss, *keep_part(device, "fedper", down))


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """Base and personal layers; those of a new client learn ``steps`` passes on the fixed base."""
    return whole_network(device, "fedper", down, data, steps)
