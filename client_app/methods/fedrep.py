"""FedRep, the device's half (arXiv 2102.07078, algorithm 1): first the head, then the body."""

from torch import nn

from client_app.device import Device
from client_app.own_part import keep_part, learn, one_architecture, open_network, whole_network
from common.data.client import ClientData
from common.methods.fedrep import Down, Up

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """``head_epochs`` on the head, the body fixed, then ``sgd.epochs`` the other way round."""
    open_network(device, "fedrep", down, before=down.round)
    first = down.sgd.model_copy(update={"epochs": down.head_epochs})
    learn(device, device.images, first, down.seed + 1, only=down.own)
    body = {spec[0] for spec in down.model.specs} - set(down.own)
    loss = learn(device, device.images, down.sgd, down.seed, only=body)
    return Up(down.round, device.examples, loss, *keep_part(device, "fedrep", down))


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The shared body and the client's head; a new client's learns ``steps`` passes."""
    return whole_network(device, "fedrep", down, data, steps)
