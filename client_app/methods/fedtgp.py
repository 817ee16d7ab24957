"""FedTGP, the device's half (Zhang et al., AAAI 2024): towards prototypes trained by the server."""

from torch import nn

from client_app.device import Device
from client_app.prototypes import nearest, train_towards
from common.data.client import ClientData
from common.methods.fedtgp import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on the own model, then its prototypes."""
    loss, prototypes = train_towards("fedtgp", down, device)
    return Up(down.round, device.examples, loss, prototypes)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own model, by its nearest prototype."""
    return nearest("fedtgp", down, device, data, steps)
