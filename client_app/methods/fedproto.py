"""FedProto, the device's half (Tan et al., AAAI 2022): towards the prototypes of all.

Own prototypes are means of the features of the trained model, as in the paper's equation (3), not
of features on the way to it. Distances are mean squares over the K features.
"""

from torch import nn

from client_app.device import Device
from client_app.prototypes import nearest, train_towards
from common.data.client import ClientData
from common.methods.fedproto import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on the own model, then its prototypes."""
    loss, prototypes = train_towards("fedproto", down, device)
    return Up(down.round, device.examples, loss, prototypes)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own model, by its nearest prototype."""
    return nearest("fedproto", down, device, data, steps)
