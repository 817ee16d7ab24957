"""FedGH, the device's half (Yi et al., ACM MM 2023): an own body under a head that the server
trains on prototypes."""

from torch import nn

from client_app.device import Device
from client_app.features import class_means, entropy, learn, new_own, newcomer_seed, use_now
from client_app.own_model import keep, recall
from common.data.client import ClientData
from common.methods.fedgh import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on body and head, then the prototypes of the trained body."""
    own = new_own(device, down.seed, down.width)
    recall(device, "fedgh", own, before=down.round)
    own.load_head(down.head)
    loss = learn(own, device.images, entropy(own), down.sgd, down.seed)
    keep(device, "fedgh", own, down.round)
    prototypes = class_means(own.module.features, own.module, device.images)
    return Up(down.round, device.examples, loss, prototypes)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own body under the server's head; that of a new client learns with it."""
    own = new_own(device, newcomer_seed(data), down.width)
    use_now(device, "fedgh", own, data, steps, entropy(own), down.sgd, down.head)
    return own.module
