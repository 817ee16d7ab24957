"""A client's own model of any architecture whose features have the width that all agree on.

Features of f numbers are brought to K by adaptive average pooling: each of the K is the mean of
those f/K that lie in its place, or, where f is smaller, a copy. It has no parameters, so that a new
linear layer K -> classes is all that differs from the architecture as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.own_model import recall
from client_app.sgd import local_sgd
from common.data.client import ClientData
from common.models import FlatModel
from common.models.parts import split
from common.sgd import LocalSgd
from common.tensors import Tensors

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images, labels) -> (what is minimised, the cross-entropy in it), both nats and scalars."""

_AT_ONCE = 256
_NONE = Tensors((), {})


class Featured(nn.Module):
    """A body with features of width ``width`` and a linear head on them."""

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.body, old = split(module)
        self.width = width
        self.head = nn.Linear(width, old.out_features)

    def features(self, images: Tensor) -> Tensor:
        """Shape (n, width)."""
        found: Tensor = self.body(images)
        if found.shape[1] == self.width:
            return found
        return F.adaptive_avg_pool1d(found.unsqueeze(1), self.width).squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (n, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Own(FlatModel):
    """A client's own model, flat, with features of the common width."""

    module: Featured

    def load_head(self, head: Tensors) -> None:
        """Take a head, named "weight" and "bias"; nothing of one that is empty."""
        with torch.no_grad():
            for name, array in head.unpack().items():
                self.module.head.get_parameter(name).copy_(torch.from_numpy(np.array(array)))

    @property
    def head(self) -> Tensors:
        """The head (a copy)."""
        named = self.module.head.named_parameters()
        return Tensors.pack({name: part.numpy(force=True) for name, part in named})

    def head_since(self, start: Tensors) -> Tensors:
        """How the head has changed; nothing if it started from none."""
        return start.with_vector(self.head.vector - start.vector) if start.specs else start


def new_own(device: Device, seed: int, width: int) -> Own:
    """A freshly initialised model of the device's own architecture."""
    body = device.task.build(device.own_model, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Own(Featured(body, width))


def learn(
    model: FlatModel,
    data: Batch,
    objective: Objective,
    sgd: LocalSgd,
    seed: int,
    clip: float = math.inf,
) -> float:
    """``sgd.epochs`` of SGD; gives the mean cross-entropy of all images seen, nats.

    Parameters
    ----------
    clip: largest norm of a gradient.
    """
    model.module.train()

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        model.load(vector)
        goal, hard = objective(*batch)
        return clipped(model.gradient(lambda: goal)[0], clip), float(hard.detach())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        vector, loss = local_sgd(model.vector, data, gradient, sgd, seed)
    model.load(vector)
    return loss


def clipped(grad: Tensor, most: float) -> Tensor:
    """A gradient, shortened to ``most`` where it is longer."""
    norm = float(grad.norm())
    return grad.mul_(most / norm) if norm > most else grad


def entropy(model: FlatModel) -> Objective:
    """Cross-entropy and nothing else."""

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        hard = F.cross_entropy(model.module(images), labels)
        return hard, hard

    return objective


def use_now(
    device: Device,
    name: str,
    model: FlatModel,
    data: ClientData,
    steps: int,
    objective: Objective,
    sgd: LocalSgd,
    head: Tensors = _NONE,
    clip: float = math.inf,
) -> None:
    """Make ``model`` the one that a client uses now.

    It is what the client has kept under ``name``; that of a new client learns ``steps`` passes over
    its support images.

    Parameters
    ----------
    head: that it has instead of its own, in methods that share one.
    """
    kept = recall(device, name, model)
    if isinstance(model, Own):
        model.load_head(head)
    if not kept and steps:
        support = (data.support_images, data.support_labels)
        more = sgd.model_copy(update={"epochs": steps})
        learn(model, support, objective, more, newcomer_seed(data), clip)


def newcomer_seed(data: ClientData) -> int:
    """Of a new client's own model: the same in each round, so that evaluations compare."""
    return data.client + 1


def class_means(outputs: Callable[[Tensor], Tensor], module: nn.Module, data: Batch) -> Tensors:
    """Mean output for the images of each class, named by its label, of the classes there are.

    Parameters
    ----------
    outputs: of images, shape (n, k); computed with ``module`` in evaluation mode.
    """
    module.eval()
    images, labels = data
    with torch.no_grad():
        rows = torch.cat([outputs(part) for part in images.split(_AT_ONCE)])
    return Tensors.pack(
        {
            str(int(label)): rows[labels == label].mean(0).numpy(force=True)
            for label in labels.unique()
        }
    )


def by_class(means: Tensors, classes: int) -> tuple[Tensor, Tensor]:
    """Rows of all classes, shape (classes, k), zero where there is none, and which there are."""
    named = {int(name): array for name, array in means.unpack().items()}
    there = torch.zeros(classes, dtype=torch.bool)
    rows = torch.zeros(classes, len(next(iter(named.values()), ())))
    for label, array in named.items():
        rows[label], there[label] = torch.tensor(array), True
    return rows, there
