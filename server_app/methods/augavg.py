"""AugAvg, the server's half: FedAvg in which the server takes part, as far as clients trust it.

Not from a paper: what AugFL is for (arXiv 2503.02154), with FedAvg's clients. In each round the
server walks down -grad R_h(theta, theta_p) from theta^t to theta_s, a path of twice the length
that a client moves at the median, and counts in the average for lambda tau times all clients
together:

    theta^{t+1} = [ sum_i p_i theta_i + lambda tau theta_s ] / (1 + lambda tau),
    p_i = n_i / sum_j n_j.

lambda has no unit, whatever the losses are, and the server cannot outrun its clients. tau is what
clients find the server's knowledge to be good for. In the first round each gets, beside theta^0,
the rival that the server made of it alone, and tells which share of its query images either is
right on after one step of adaptation, a^0_i and a^s_i. No model has seen those images yet, and
none that has trained on them could tell as much. tau is the share of the errors that the rival
saves, at the median, of which a minority has no say:

    tau = median_i(a^s_i - a^0_i) / (1 - median_i a^0_i), between 0 and 1.

With tau or lambda 0 this is FedAvg.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from pydantic import Field

from common.methods.augavg import Down, Up
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.replies import EMPTY
from server_app.families.averaging import Averaging
from server_app.knowledge.descent import Descent
from server_app.method import Knowledge, MethodSettings, Replies, Saved, Setup

PATH = 2.0
"""The server's path over a client's move, which is what is left of a path of many steps."""

RATE, TRIAL = 0.05, 100
"""Longest step of the rival over the model's norm, as ``transfer`` has by default; and steps."""


class Settings(MethodSettings):
    """FedAvg's local SGD, and the server's part."""

    alpha: float = Field(0.05, gt=0, le=10, description="Adaptation rate by which clients vote.")
    lambda_: float = Field(
        1.0, ge=0, le=100, alias="lambda",
        description="What the server counts for at full trust, over all clients; 0 is FedAvg.",
    )  # fmt: skip
    steps: int = Field(5, ge=1, le=1000, description="The server's steps in a round.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)

    @property
    def uses_knowledge(self) -> bool:
        """R_h vanishes with lambda."""
        return self.lambda_ > 0

    @property
    def adaptation_rate(self) -> float:
        """That of the vote, and of R_h's tasks."""
        return self.alpha


class Server(Averaging):
    """A weighted average of clients and server.

    Attributes
    ----------
    rival: what clients are to compare with theta^0; nothing once they have.
    trust: tau; None before.
    """

    down, up = Down, Up
    settings: Settings
    rival: Saved[Tensors]
    trust: Saved[float | None]
    descent: Saved[Descent]

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.knowledge = setup.knowledge if settings.uses_knowledge else None
        self.rival, self.trust, self.descent = EMPTY, None, Descent()

    def begin(self, round: int, clients: Sequence[int]) -> None:
        """Make the rival; a round that does not count leaves it for the next."""
        if self.knowledge is not None and self.trust is None and not self.rival.specs:
            theta = torch.tensor(self.model.vector)
            Descent()(self.knowledge, theta, TRIAL, RATE)
            self.rival = self.model.with_vector(theta.numpy())

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """The average, and in the first round the clients' verdict."""
        if self.knowledge is None:
            return super().step(round, replies)
        if self.trust is None:
            self.trust, self.rival = trust(replies.ups.values()), EMPTY
        weight = self.settings.lambda_ * self.trust
        if weight == 0:
            return super().step(round, replies) | {"trust": self.trust}
        own, terms = self._walk(self.knowledge, median(replies.norms["change"].values()))
        change = (replies.average("change").vector + weight * own) / (1 + weight)
        self.model = self.model.with_vector(self.model.vector + change)
        self.buffers = replies.averaged("buffers", self.buffers)
        return {"step_norm": float(np.linalg.norm(change)), "trust": self.trust} | terms

    def go_back(self, model: Tensors | None, buffers: Tensors, blamed: bool) -> bool:
        """Forget the gradients of a model that was lost."""
        self.descent = Descent()
        return super().go_back(model, buffers, blamed)

    def _walk(self, knowledge: Knowledge, length: float) -> tuple[Any, dict[str, float]]:
        """The server's change and the terms of R_h; ``length`` is that of a client's change."""
        start = torch.tensor(self.model.vector)
        theta, size = start.clone(), float(start.norm())
        rate = PATH * length / (self.settings.steps * size) if size else 0.0
        terms = self.descent(knowledge, theta, self.settings.steps, rate)
        return theta.sub_(start).numpy(), terms


def trust(ups: Iterable[Up]) -> float:
    """tau: the share of errors after adaptation that the server alone saves, at the median."""
    pairs = [(up.right, up.right_rival) for up in ups]
    errors = 1 - median(right for right, _ in pairs)
    saved = median(rival - right for right, rival in pairs)
    return min(1.0, max(0.0, saved / errors)) if errors else 0.0
