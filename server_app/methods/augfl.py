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
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.methods.augfl import Difference, Down, Up
from common.tensors import Tensors
from server_app.admm.duals import Duals
from server_app.admm.penalty import Penalty, usual_curvature
from server_app.admm.proximal import Proximal, distance_weight
from server_app.admm.safeguard import Safeguard
from server_app.admm.shares import Shares
from server_app.aggregation.expected import Expected, Vector
from server_app.method import (
    LOST,
    WORSE,
    Method,
    MethodSettings,
    Replies,
    Saved,
    Setup,
    Source,
)
from server_app.validation.errors import Rejected
from server_app.validation.outliers import CAP

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
    clipping: bool = Field(
        False, description="Keep all duals and clip those far from the others, against liars."
    )
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


class Server(Method):
    """Inexact consensus ADMM with a knowledge-transfer regularizer.

    Attributes
    ----------
    duals: Y, and whose.
    share: w_i.
    """

    down, up = Down, Up
    settings: Settings

    model: Saved[Tensors]
    duals: Saved[Duals]
    share: Saved[Shares]
    penalty: Saved[Penalty]
    safeguard: Saved[Safeguard]

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.knowledge = setup.knowledge if settings.uses_knowledge else None
        exact = settings.update == "exact" and self.knowledge is not None
        self.exact = distance_weight(self.knowledge) if exact else 0.0
        self.duals = Duals(len(setup.model), setup.secret)
        self.share = Shares(settings.weights == "equal")
        self.penalty = Penalty(settings.rho, settings.adaptive_rho)
        self.safeguard = Safeguard(settings.adaptive_rho)
        if settings.clipping:
            self.collects = frozenset({"increment"})

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
        cannot be rid of them but by a restart, which costs a round of plain gradients; unless duals
        are kept apart.
        """
        self.share.leave(clients)
        if self.settings.clipping:
            self.duals.drop(clients, self.share)
            self.penalty.forget_step()
            return
        if self.share.stale(self.duals.entered) > STALE:
            self.restart()

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
        if up.curvature > CAP:
            raise Rejected("curvature", f"is {up.curvature:.3g}, over {CAP:g}", excessive=True)
        return {"increment": self.duals.size(client, up, sizes["increment"]) / self.share(client)}

    def go_back(self, model: Tensors | None, buffers: Tensors, blamed: bool) -> bool:
        """Return to an earlier model; with twice the rho, where no client can be blamed."""
        careful = self.settings.adaptive_rho and not blamed
        self.penalty.restart(double=careful)
        self.safeguard.restart()
        self.restart()
        super().go_back(model, buffers, blamed)
        return careful

    def restart(self, round: int = 0, lost: Sequence[int] = ()) -> None:
        """All duals start again from zero; those of ``lost``, in Y, were known to nobody."""
        self.duals.restart(round, lost)
        self.penalty.forget_step()

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Equation (13)."""
        valid = {client: up for client, up in replies.ups.items() if replies.weight(client)}
        metrics = self.update(round, replies, valid) if valid else {}
        if lost := sorted(replies.ups.keys() - valid.keys()):
            self.restart(round, lost)
            metrics["restarted_duals"] = len(lost)
        return metrics

    def update(self, round: int, replies: Replies, valid: dict[int, Up]) -> dict[str, float]:
        """Equation (13) with the replies that go on from the duals in Y."""
        s, theta = self.settings, torch.tensor(self.model.vector)
        increments: NDArray[np.floating[Any]]
        if s.clipping:
            sent = replies.each("increment")
            increments = self.duals.keep({client: sent[client] for client in valid}, self.share)
        else:
            increments = replies.total("increment")  # sum_i Delta_i
        self.duals.add(increments, valid)  # Y, now with them
        self.share.welcome(valid)
        clients = self.share.present(self.duals.entered)
        share = sum(map(self.share, clients))
        # While some clients have never replied, R_h must not outweigh those that have.
        prior = Proximal(
            self.knowledge, theta, s.lambda_ * share, s.server_steps, self.exact, s.adaptive_rho
        )
        most = usual_curvature([up.curvature for up in valid.values()])
        curvature = self.penalty.secant(
            float(np.linalg.norm(increments)),
            replies.mean("curvature", most=most) * share,
            1.0 if len(valid) == len(clients) else sum(map(replies.weight, valid)) / share,
            (up.base for up in valid.values()),
        )
        penalty = self.penalty.total(len(clients), curvature, prior.explicit)  # P
        drift = torch.from_numpy((self.duals.total + increments).astype(np.float32))
        size = float(theta.norm())
        step = prior.step(drift, penalty, lambda length: self.safeguard.inner(length, size))
        cut = self.safeguard.cut(step, size)
        length = float(step.norm())
        self.penalty.note(round, length, cut)
        self.model = self.model.with_vector(theta.add_(step).numpy())
        squares = sum(replies.norms["increment"][client] ** 2 for client in valid)
        return {
            "rho": self.penalty.used,
            "curvature": curvature,
            "primal_residual": squares**0.5 * len(clients) / penalty,
            "dual_residual": penalty * length,
            "step_norm": length,
            **prior.metrics(),
        }
