"""FedKTL, the device's half (Zhang et al., CVPR 2024): fixed class vectors, and generated images.

    L = CE(s cos(angle(u, v_c) + m [c = y]), y) + mu ||p(f(x_G)) - q_G||^2 / l
    u = h(f(x)) / ||h(f(x))||

v are the server's class vectors, which lie as far apart as can be, (x_G, q_G) generated images and
their latents, p a linear projector. p starts the same at all clients and stays with the own model;
in the published program each round begins with the server's copy. An angle that the margin would
take beyond pi gets the linear continuation of ArcFace instead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.device import Device
from client_app.features import (
    Featured,
    Objective,
    by_class,
    class_means,
    learn,
    new_own,
    newcomer_seed,
    use_now,
)
from client_app.margin import with_margin
from client_app.own_model import keep, recall
from common.data.client import ClientData
from common.methods.fedktl import Down, Up
from common.models import FlatModel
from common.tensors import Tensors


class Aligned(nn.Module):
    """An own model with its projector; scores are ``scale`` times cosines with class vectors."""

    def __init__(self, own: Featured, down: Down) -> None:
        super().__init__()
        self.own, self.scale = own, down.scale
        self.vectors = _tensor(down.etf, "vectors")
        self.project = nn.Linear(down.width, down.latent)

    def unit(self, images: Tensor) -> Tensor:
        """u, shape (n, classes)."""
        return F.normalize(self.own(images))

    def forward(self, images: Tensor) -> Tensor:
        """Scores, shape (n, classes)."""
        return self.scale * self.unit(images) @ self.vectors


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on the own model, then its prototypes in the space of class vectors."""
    own, module = _new(device, down, down.seed)
    recall(device, "fedktl", own, before=down.round)
    objective = _objective(down, module)
    loss = learn(own, device.images, objective, down.sgd, down.seed, down.clip)
    keep(device, "fedktl", own, down.round)
    means = class_means(module.unit, module, device.images)
    units = F.normalize(by_class(means, len(device.classes))[0]).numpy(force=True)
    prototypes = Tensors.pack({name: units[int(name)] for name, _, _ in means.specs})
    return Up(down.round, device.examples, loss, prototypes)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The own model, by cosines with the class vectors."""
    own, module = _new(device, down, newcomer_seed(data))
    objective = _objective(down, module)
    use_now(device, "fedktl", own, data, steps, objective, down.sgd, clip=down.clip)
    return module


def _new(device: Device, down: Down, seed: int) -> tuple[FlatModel, Aligned]:
    featured = new_own(device, seed, down.width).module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(down.start)
        module = Aligned(featured, down)
    return FlatModel(module), module


def _objective(down: Down, module: Aligned) -> Objective:
    pairs = (
        [_tensor(down.pairs, name) for name in ("images", "latents")] if down.pairs.specs else []
    )

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        cosine = module.unit(images) @ module.vectors
        hard = F.cross_entropy(down.scale * with_margin(cosine, labels, down.margin), labels)
        if not pairs:
            return hard, hard
        drawn = torch.randperm(len(pairs[0]))[: down.generated_batch]
        shown = module.project(module.own.features(pairs[0][drawn]))
        return hard + down.mu * F.mse_loss(shown, pairs[1][drawn]), hard

    return objective


def _tensor(tensors: Tensors, name: str) -> Tensor:
    return torch.tensor(tensors.unpack()[name])
