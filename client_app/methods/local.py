"""Local, the device's half: SGD on the client's own model, which never leaves it."""

from torch import nn

from client_app.device import Device
from client_app.own_part import keep_part, learn, learn_anew, one_architecture, open_network
from common.data.client import ClientData
from common.methods.local import Down, Up

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD, from where the client was."""
    open_network(device, "local", down, before=down.round)
    loss = learn(device, device.images, down.sgd, down.seed)
    keep_part(device, "local", down)
    return Up(down.round, device.examples, loss)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The client's model; a new client makes one by ``steps`` passes over its support images."""
    if not open_network(device, "local", down) and steps:
        learn_anew(device, data, down.sgd, steps)
    return device.model.module
