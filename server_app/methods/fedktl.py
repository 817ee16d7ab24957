"""FedKTL, the server's half (Zhang et al., CVPR 2024): one generated image a class.

    min_F  MMD(F(P), G_m(noise)) + lambda E ||F(P_i^c) - E^c||^2 / l
    E^c <- mean_i F(P_i^c)        x_G^c = G_s(E^c)

P are the clients' prototypes in the space of class vectors, F brings them to the generator's
latents, and E are the classes' places there, noise of the generator at first. Adam begins anew in
each round.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from common.discrepancy import mmd
from common.errors import SettingsError
from common.methods.fedktl import Down, Up
from common.models.seeded import seeded
from common.models.state import load_state, state_of
from common.seeds import seed_for
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import AnyOf, Expected
from server_app.aggregation.replies import EMPTY
from server_app.families.fit import descend, rows_of
from server_app.families.own_models import OwnModels
from server_app.method import Generator, MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Own models that learn from images of the server's generator."""

    width: int = Field(512, ge=1, le=4096, description="Features K of every own model.")
    mu: float = Field(50.0, ge=0, le=10_000, description="Weight of what is transferred.")
    pull: float = Field(
        1.0, ge=0, le=1000, alias="lambda", description="Server: weight of the classes' places."
    )
    scale: float = Field(64.0, gt=0, le=1000, description="Of cosines.")
    margin: float = Field(0.5, ge=0, le=1.5, description="Of the own class, radians.")
    clip: float = Field(100.0, gt=0, description="Largest norm of a gradient.")
    generated_batch: int = Field(4, ge=1, description="Generated images a step.")
    server_lr: float = Field(0.01, gt=0, le=1, description="Server: learning rate of Adam.")
    server_epochs: int = Field(100, ge=1, le=10_000, description="Server: passes a round.")
    server_batch: int = Field(100, ge=2, description="Server: prototypes a step.")
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)

    @property
    def uses_generator(self) -> bool:
        """Always."""
        return True


class Server(OwnModels):
    """The losses above, by Adam."""

    down, up, collects = Down, Up, frozenset({"prototypes"})
    transformer: Saved[Tensors]  # F
    places: Saved[Tensors]  # E
    pairs: Saved[Tensors]
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        """Begin without images.

        Raises
        ------
        SettingsError: there is no generator.
        """
        super().__init__(settings, setup)
        if setup.generator is None:
            raise SettingsError("fedktl needs a generator of images")
        self.generator: Generator = setup.generator
        self.start = seed_for(setup.seed, "projector") % 2**40
        places = self.generator.latents(self._noise(0, self.task.classes))
        self.latent = places.shape[1]
        self.transformer = state_of(seeded(self._build, seed_for(setup.seed, "transformer")))
        self.places, self.pairs = Tensors.pack({"places": places.numpy()}), EMPTY
        self.etf = Tensors.pack({"vectors": class_vectors(self.task.classes, setup.seed)})

    def _noise(self, round: int, count: int) -> Tensor:
        dice = torch.Generator().manual_seed(seed_for(self.setup.seed, "noise", round))
        return torch.randn(count, self.generator.noise, generator=dice)

    def _build(self) -> nn.Sequential:
        classes, latent = self.task.classes, self.latent
        return nn.Sequential(
            nn.Linear(classes, latent), nn.BatchNorm1d(latent), nn.ReLU(), nn.Linear(latent, latent)
        )

    def expects(self, client: int) -> Expected:
        """Prototypes of some classes."""
        return {"prototypes": AnyOf(self.of_classes(self.task.classes))}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Fit F, move the places, generate."""
        rows, labels = rows_of(replies.each("prototypes"))
        places = torch.from_numpy(np.array(self.places.unpack()["places"]))
        net = self._build()
        load_state(net, self.transformer)
        rows, count = F.normalize(rows), self.settings.server_batch
        net.train(len(rows) > 1)  # BatchNorm cannot train on one
        noise, goals = self.generator.latents(self._noise(round, count)), places[labels]

        def loss(some: Tensor) -> Tensor:
            made = net(rows[some])
            return mmd(made, noise) + self.settings.pull * F.mse_loss(made, goals[some])

        value = descend(
            net, loss, len(rows), rate=self.settings.server_lr, size=count,
            epochs=self.settings.server_epochs, seed=seed_for(self.setup.seed, "server", round),
            by=torch.optim.Adam,
        )  # fmt: skip
        with torch.no_grad():
            found = net.eval()(rows)
        for label in labels.unique():
            places[label] = found[labels == label].mean(0)
        self.transformer = state_of(net)
        self.places = Tensors.pack({"places": places.numpy()})
        images = self.generator.images(places)
        self.pairs = Tensors.pack({"images": images.numpy(), "latents": places.numpy()})
        return {"server_loss": value}


def class_vectors(classes: int, seed: int) -> np.ndarray:
    """Unit vectors, columns of shape (classes, classes), any two of them at the same widest angle:
    sqrt(C / (C - 1)) U (I - 11' / C), a simplex equiangular tight frame."""
    dice = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(dice.normal(size=(classes, classes)))
    frame = basis @ (np.eye(classes) - 1 / classes)
    return (math.sqrt(classes / (classes - 1)) * frame).astype(np.float32)
