"""RaFFM (arXiv 2310.00247), the device's half: local SGD on the slice that it was sent.

With ordered dropout (FjORD, arXiv 2102.13451, without self-distillation) each step trains a slice
of the slice, of a width drawn anew.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from client_app.batches import Batch
from client_app.device import Device
from client_app.sgd import local_sgd
from common.errors import WireError
from common.methods.raffm import Down, Up
from common.models import FlatModel
from common.models.widths import flat, inside


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the slice."""
    model = device.at_width(down.width)
    if model.parameters.specs != down.model.specs:
        raise WireError(
            f"the server's slice of width {down.width:g} is none of this device's network: their "
            "releases differ"
        )
    theta = torch.tensor(down.model.vector)
    model.load_buffers(down.buffers)
    model.module.train()
    inner = [(device.at_width(w), _places(device, down.width, w)) for w in down.inner]
    dice = random.Random(down.seed)

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        if not inner:
            return _gradient(model, vector, batch)
        small, places = dice.choice(inner)
        grad, loss = _gradient(small, vector[places], batch)
        return torch.zeros_like(vector).index_copy_(0, places, grad), loss

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(down.seed)  # of dropout
        vector, loss = local_sgd(theta, device.images, gradient, down.sgd, down.seed)
    change = down.model.with_vector(vector.sub_(theta).numpy(force=True))
    return Up(down.round, device.examples, loss, change, model.buffers)


def _gradient(model: FlatModel, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
    images, labels = batch
    model.load(vector)
    return model.gradient(lambda: F.cross_entropy(model.module(images), labels))


def _places(device: Device, width: float, inner: float) -> Tensor:
    """Where the entries of a slice within the client's slice are in its flat vector."""
    outer, own = (device.part(each) for each in (width, inner))
    return torch.tensor(flat(inside(outer, own), device.at_width(width).parameters.specs))
