"""AugFL, the server's half (arXiv 2503.02154, equation (13)).

    theta^{t+1} = [ sum_i (y_i + rho_i theta_i) - lambda grad R_h(theta^t, theta_p) ] / sum_i rho_i

R_h is linearised at the old theta^t; for R_h = ||theta - theta_c||^2 the minimiser is exact
(ADMM-FedMeta, arXiv 2012.08677). What (13) approximates is the proximal problem

    min_theta  lambda R_h(theta) + P/2 ||theta - z||^2,  P = sum_i rho_i,  z = sum_i (...) / P,

and ``server_steps`` > 1 gradient steps come nearer to its solution, damped by D:

    theta_{k+1} = [ P z + D theta_k - lambda grad R_h(theta_k) ] / (P + D),  theta_0 = theta^t.

The server is the strong machine: its steps cost the devices nothing.

With Delta_i = rho_i (theta_i - theta^t), which is what comes up, and Y = sum_i y_i, the sum over
clients is sum_i rho_i theta^t + Y + sum_i Delta_i: the server keeps one vector Y, however many
clients there are.

Clients that are absent in a round keep their last dual, as in ADMM, and theta_i = theta^t, so that
Delta_i = 0. A client enters the sums with its first reply (``server_app/admm/duals.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from common.errors import SettingsError
from common.methods.augfl import Difference, Down, Up
from common.tensors import Tensors
from server_app.admm.duals import Duals
from server_app.admm.penalty import Penalty
from server_app.admm.shares import Shares
from server_app.aggregation.expected import Expected, Vector
from server_app.method import (
    LOST,
    WORSE,
    Knowledge,
    Method,
    MethodSettings,
    Replies,
    Saved,
    Setup,
    Source,
)

STALE = 0.25
"""Share of Y, by weight, that may be the duals of clients that have left. A restart costs
more than one stale dual in ten does."""


class Settings(MethodSettings):
    """AugFL; where the defaults are not those published for CIFAR-100, ``docs/augfl.md`` says."""

    alpha: float = Field(0.05, gt=0, le=10, description="Adaptation rate of equation (7).")
    rho: float = Field(0.7, gt=0, le=1e6, description="Penalty rho_i, the same for all clients.")
    lambda_: float = Field(
        5.0, ge=0, le=1e6, alias="lambda", description="Weight of R_h; 0 is ADMM without prior."
    )
    weights: Literal["examples", "equal"] = Field(
        "examples", description="Weights w_i: shares of all images, as published, or equal."
    )
    adaptive_rho: bool = Field(True, description="Raise rho where the curvature demands it.")
    update: Literal["linearised", "exact"] = Field(
        "linearised", description="Server step; exact is for the squared distance alone."
    )
    server_steps: int = Field(
        5, ge=1, le=1000, description="Gradients of R_h in a round; 1 is equation (13)."
    )
    difference: Difference = Field(
        "central", description="Of equation (10): forward saves a gradient and is biased."
    )
    delta_slope: float = Field(10.0, ge=0, description="a of delta_t = 1 / (a t + b).")
    delta_offset: float = Field(100.0, gt=0, description="b of delta_t = 1 / (a t + b).")
    batch_size: int = Field(0, ge=0, description="Images a gradient; 0 takes all, as published.")

    @property
    def uses_knowledge(self) -> bool:
        """R_h vanishes with lambda."""
        return self.lambda_ > 0

    @property
    def adaptation_rate(self) -> float:
        """That of equation (7)."""
        return self.alpha

    @model_validator(mode="after")
    def _exact_needs_lambda(self) -> Self:
        if self.update == "exact" and (not self.lambda_ or self.server_steps > 1):
            raise ValueError("update='exact' needs lambda above 0 and server-steps=1")
        return self


def _distance_weight(knowledge: Knowledge | None) -> float:
    """w, where R_h is w ||theta - theta_c||^2.

    Raises
    ------
    SettingsError: it has other terms, for which there is no exact step.
    """
    weight = None if knowledge is None else knowledge.distance_weight
    if weight is None:
        raise SettingsError(
            "augfl.update=exact is for the squared distance alone: set "
            "knowledge.squared-distance above 0 and knowledge.cross-entropy, .kl, .crd and .tasks "
            "to 0, or augfl.update=linearised"
        )
    return weight


class Server(Method):
    """Inexact consensus ADMM with a knowledge-transfer regularizer.

    Attributes
    ----------
    share: w_i.
    rho: as set, or raised after a return to the best model.
    used: rho of the last step.
    """

    down, up = Down, Up
    settings: Settings

    model: Saved[Tensors]
    duals: Saved[Duals]
    penalty: Saved[Penalty]
    share: Saved[Shares]
    rho: Saved[float]
    used: Saved[float]

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.knowledge = setup.knowledge if settings.uses_knowledge else None
        self.distance = 0.0 if settings.update != "exact" else _distance_weight(self.knowledge)
        self.duals = Duals(len(setup.model), setup.secret)
        self.penalty = Penalty(settings.adaptive_rho)
        self.share = Shares(settings.weights == "equal")
        self.rho = self.used = settings.rho

    @property
    def lost(self) -> float:
        """A rho that is adapted answers early; a fixed one is what was asked for."""
        return WORSE if self.settings.adaptive_rho else LOST

    def enrol(self, client: int, source: Source) -> None:
        """Weights are shares of the examples of all that have not left."""
        self.share.enrol(client, source.examples)

    def leave(self, clients: Sequence[int]) -> None:
        """Weights are those of the others from now on.

        Y goes on holding the duals of those that have left, gradients of models long past, and
        cannot be rid of them but by a restart, which costs a round of plain gradients.
        """
        self.share.leave(clients)
        stale = [client for client in self.share.gone if client in self.duals.entered]
        if sum(map(self.share, stale)) > STALE:
            self._restart()

    def broadcast(self, round: int, client: int, **more: Any) -> Down:
        """The global model and what the client needs for equations (7) and (10)-(12)."""
        delta = 1 / (self.settings.delta_slope * round + self.settings.delta_offset)
        known = self.duals.known(client)
        return super().broadcast(round, client, weight=self.share(client), delta=delta, **known)

    def expects(self, client: int) -> Expected:
        """An increment of a dual."""
        return {"increment": Vector(self.model.specs)}

    def weight(self, client: int, up: Up) -> float:
        """w_i; nothing where the client has lost the dual that is in Y."""
        return self.share(client) * self.factor(client, up)

    def factor(self, client: int, up: Up) -> float:
        """Increments just add up."""
        return float(self.duals.continues(client, up))

    def check(self, client: int, up: Up, sizes: dict[str, float]) -> dict[str, float]:
        """Compare a reply with Y; over the weight, the size of a dual is that of a gradient."""
        size = self.duals.size(client, up, sizes["increment"])
        return {"increment": size / self.share(client), "curvature": up.curvature}

    def go_back(self, model: Tensors | None, buffers: Tensors, blamed: bool) -> bool:
        """Return to an earlier model; with twice the rho, where no client can be blamed."""
        careful = self.settings.adaptive_rho and not blamed
        if careful:
            self.rho = 2 * self.used
        self.penalty.restart()
        self._restart()
        super().go_back(model, buffers, blamed)
        return careful

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Equation (13)."""
        valid = {client: up for client, up in replies.ups.items() if replies.weight(client)}
        metrics = self._update(round, replies, valid) if valid else {}
        if lost := sorted(replies.ups.keys() - valid.keys()):
            # Their old duals are part of Y and nobody knows them any more.
            self._restart(round, lost)
            metrics["restarted_duals"] = len(lost)
        return metrics

    def _restart(self, round: int = 0, lost: Sequence[int] = ()) -> None:
        self.duals.restart(round, lost)
        self.penalty.moved, self.penalty.stepped = 0.0, 0

    def _update(self, round: int, replies: Replies, valid: dict[int, Up]) -> dict[str, float]:
        s, increments = self.settings, replies.total("increment")  # sum_i Delta_i
        weights = sum(map(replies.weight, valid))
        self.duals.add(increments, valid)
        self.share.welcome(valid)
        known = [client for client in self.duals.entered if client in self.share]
        share = sum(map(self.share, known))
        # While some clients have never replied, R_h must not outweigh those that have.
        lambda_ = s.lambda_ * share
        theta = torch.tensor(self.model.vector)
        drift = torch.from_numpy((self.duals.total + increments).astype(np.float32))
        slope, terms, bend = torch.zeros(()), dict[str, float](), 0.0
        if self.knowledge is not None:
            slope, terms = self.knowledge.gradient(theta)
            if s.adaptive_rho or s.server_steps > 1:
                bend = lambda_ * self.knowledge.curvature(theta, slope)
        curvature = self.penalty.secant(
            float(np.linalg.norm(increments)), replies.mean("curvature") * share,
            1.0 if len(valid) == len(known) else weights / share,
            (up.base for up in valid.values()),
        )  # fmt: skip
        steps = s.server_steps if self.knowledge is not None else 1
        implicit = steps > 1 or s.update == "exact"  # else P answers the curvature of R_h
        penalty = self.penalty.total(self.rho * len(known), curvature, 0.0 if implicit else bend)
        damping = self.penalty.damping(penalty, bend) if steps > 1 else 0.0
        # Exact: [2 lambda w theta_c + sum] / (2 lambda w + P), as a step from theta.
        exact, size = 2 * lambda_ * self.distance, float(theta.norm())
        move = drift.sub(slope, alpha=lambda_).div_(penalty + damping + exact)
        if steps > 1:
            move.mul_(self.penalty.stride(float(move.norm()), size))
        for _ in range(steps - 1):
            assert self.knowledge is not None
            slope_k, terms = self.knowledge.gradient(theta + move)
            more = move.mul(damping).add_(drift).sub_(slope_k, alpha=lambda_)
            more.div_(penalty + damping).sub_(move)
            move.add_(more, alpha=self.penalty.stride(float(more.norm()), size))
        self.used = penalty / len(known)
        move.mul_(self.penalty.shorten(float(move.norm()), size))
        self.model = self.model.with_vector(theta.add_(move).numpy())
        length = self.penalty.moved = float(move.norm())
        self.penalty.stepped = round
        squares = sum(replies.norms["increment"][client] ** 2 for client in valid)
        return {
            "rho": self.used,
            "curvature": curvature,
            "primal_residual": squares**0.5 * len(known) / penalty,
            "dual_residual": penalty * length,
            "step_norm": length,
            **({"transfer_curvature": bend / lambda_} if bend else {}),
            **({"transfer_gradient": float(slope.norm())} if terms else {}),
            **{f"transfer_{name}": value for name, value in terms.items()},
        }
