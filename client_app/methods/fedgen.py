"""FedGen, the device's half (Zhu et al., ICML 2021): the shared head also learns from generated
features.

    L = CE(h(f(x)), y) + lambda CE(h(G(eps, y')), y')

with as many y' a batch as it has images, drawn from the shares of the classes among all clients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.device import Device
from client_app.features import Objective, Own, entropy, learn, new_own, newcomer_seed, use_now
from client_app.own_model import keep, recall
from common.data.client import ClientData
from common.feature_generator import FeatureGenerator
from common.methods.fedgen import Down, Up
from common.models.state import load_state
from common.tensors import Tensors


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on body and head."""
    own = new_own(device, down.seed, down.width)
    recall(device, "fedgen", own, before=down.round)
    own.load_head(down.head)
    loss = learn(own, device.images, _objective(down, own), down.sgd, down.seed)
    keep(device, "fedgen", own, down.round)
    counts = torch.bincount(device.images[1], minlength=len(device.classes))
    told = Tensors.pack({"images": counts.numpy(force=True)})
    return Up(down.round, device.examples, loss, own.head_since(down.head), told)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own body under the shared head; that of a new client learns with it."""
    own = new_own(device, newcomer_seed(data), down.width)
    objective = _objective(down, own)
    use_now(device, "fedgen", own, data, steps, objective, down.sgd, down.head)
    return own.module


def _objective(down: Down, own: Own) -> Objective:
    plain = entropy(own)
    if not down.generator.specs:
        return plain
    head, shares = own.module.head, torch.tensor(down.shares)
    generator = FeatureGenerator(down.noise, len(shares), down.hidden, down.width)
    load_state(generator, down.generator)
    generator.eval().requires_grad_(False)

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        _, hard = plain(images, labels)
        drawn = torch.multinomial(shares, len(labels), replacement=True)
        made = generator(torch.randn(len(labels), down.noise), drawn)
        return hard + down.pull * F.cross_entropy(head(made), drawn), hard

    return objective
