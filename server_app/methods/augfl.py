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
Delta_i = 0. A client enters the sums with its first reply. A reply that is lost leaves no trace:
the server tells each client which of its replies entered Y, and the next increment starts there.
If a client no longer has that dual, Y cannot be mended, and all duals start again from zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.errors import SettingsError
from common.methods.augfl import Down, Up
from common.sketch import NUMBERS, agree, sketch
from common.tensors import Tensors
from server_app.client_losses import Losses
from server_app.ground import LOST, WORSE
from server_app.measure import NUMBERS as MEASURED
from server_app.measure import Measure
from server_app.method import Knowledge, MethodSettings, Setup, State
from server_app.penalty import Penalty
from server_app.rejection import Rejected
from server_app.seeds import seed_for
from server_app.summation import Sum

PATIENCE = 10
"""Rounds before a client that had lost its dual is believed to have lost it again: each time, all
duals start from zero."""

STALE = 0.05
"""Share of Y, by weight, that may be the duals of clients that have left."""


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
    difference: Literal["central", "forward"] = Field(
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


class Server:
    """Inexact consensus ADMM with a knowledge-transfer regularizer."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        self.model = setup.model
        self.buffers = setup.buffers
        self._settings = settings
        self._seed = setup.seed
        self._knowledge = setup.knowledge if settings.uses_knowledge else None
        self._distance = 0.0 if settings.update != "exact" else _distance_weight(self._knowledge)
        self._penalty = Penalty(settings.adaptive_rho)
        self._examples: dict[int, int] = {}
        self._gone: set[int] = set()
        self._images = 0  # of the clients that are not gone
        self._acknowledged: dict[int, int] = {}
        self._sketches: dict[int, list[float]] = {}  # of the duals in Y
        self._measure = Measure(setup.secret, len(setup.model))
        self._measures: dict[int, list[float]] = {}  # of the same duals, by secret signs
        self._believed: dict[int, int] = {}  # round in which a client had last lost its dual
        self._sum = Sum(len(setup.model))
        self._duals = np.zeros(len(setup.model), np.float64)  # Y
        self._moved = 0.0  # length of the last step
        self._stepped = 0  # its round
        self._rho = settings.rho  # as set, or raised after a fall back
        self._used = settings.rho  # of the last step
        self.discard()

    @property
    def loss(self) -> float:
        """Mean of the replies' losses by w_i."""
        return self._losses.mean

    @property
    def lost(self) -> float:
        """A rho that is adapted answers early; a fixed one is what was asked for."""
        return WORSE if self._settings.adaptive_rho else LOST

    def enrol(self, node: int, examples: int) -> None:
        """Note a source; weights are shares of all examples of those that are not gone."""
        self._images += examples - (0 if node in self._gone else self._examples.get(node, 0))
        self._gone.discard(node)
        self._examples[node] = examples

    def leave(self, nodes: Sequence[int]) -> None:
        """Weights are those of the others from now on.

        Y goes on holding the duals of those that have left, gradients of models long past, and
        cannot be rid of them but by a restart, which costs a round of plain gradients.
        """
        for node in (node for node in nodes if node not in self._gone):
            self._gone.add(node)
            self._images -= self._examples[node]
        left = [node for node in self._gone if node in self._acknowledged]
        if sum(map(self._weight, left)) > STALE:
            self._restart_duals()

    def _return(self, nodes: Iterable[int]) -> None:
        for node in self._gone.intersection(nodes):
            self._gone.remove(node)
            self._images += self._examples[node]

    def broadcast(self, round: int, node: int) -> Down:
        """The global model and what the node needs for equations (7) and (10)-(12)."""
        s = self._settings
        return Down(
            round=round,
            model=self.model,
            weight=self._weight(node),
            alpha=s.alpha,
            delta=1 / (s.delta_slope * round + s.delta_offset),
            difference=s.difference,
            batch_size=s.batch_size,
            seed=seed_for(self._seed, round, node),
            acknowledged=self._acknowledged.get(node, 0),
            dual=self._sketch(node).tolist(),
        )

    def offer(self, node: int, up: Up) -> dict[str, float]:
        """Compare a reply with Y.

        Its size is the norm of the dual that it leads to, as estimated, or half of the
        increment's, which no honest client exceeds; over the weight, it is that of a gradient.
        Increments themselves have no usual size: they vanish for a client that has settled.
        """
        norm = self._sum.offer(up.increment.vector)
        known = self._acknowledged.get(node, 0)
        if up.base not in (known, 0):
            raise Rejected("base", f"starts from round {up.base}, acknowledged is {known}")
        last = self._believed.get(node, -PATIENCE)
        if known and not up.base and up.round - last < PATIENCE:
            raise Rejected("base", f"lost its dual after it had lost it in round {last}")
        if math.isfinite(norm):
            start = self._sketch(node) if up.base else np.zeros(NUMBERS)
            dual = start + sketch(up.increment.vector)
            if not agree(up.dual, dual, norm):
                raise Rejected("dual", "is not what the server has in its sum plus the increment")
            # Not by the sketch, whose signs are public: a drift can be made that it does not see.
            norm = max(norm / 2, float(np.linalg.norm(self._measured(node, up))))
        return {"increment": norm / self._weight(node), "curvature": up.curvature}

    def absorb(self, node: int, up: Up) -> None:
        """Add one increment to the round's sum."""
        if up.base != self._acknowledged.get(node, 0):
            self._lost.append(node)
            return
        increment = up.increment.vector
        weight = self._weight(node)
        self._squares += self._sum.keep(increment) ** 2
        self._replies[node] = up.round
        self._sent[node] = up.dual
        self._sent_measures[node] = self._measured(node, up).tolist()
        self._weights += weight
        self._losses.add(up.loss, weight)
        self._consecutive &= up.base == self._stepped > 0
        self._curvature += weight * up.curvature

    def step(self, round: int) -> dict[str, float]:
        """Equation (13)."""
        metrics: dict[str, float] = {}
        if self._replies:
            metrics = {"loss": self.loss} | self._update(round)
        if self._lost:
            # Their old duals are part of Y and nobody knows them any more.
            self._believed |= dict.fromkeys(self._lost, round)
            self._restart_duals()
            metrics["restarted_duals"] = len(self._lost)
        self.discard()
        return metrics

    def discard(self) -> None:
        """Forget the replies of this round; their senders are not acknowledged."""
        self._sum.clear()
        self._squares = self._weights = self._curvature = 0.0
        self._losses = Losses()
        self._consecutive = True  # all replies were acknowledged in the last step
        self._replies: dict[int, int] = {}
        self._sent: dict[int, list[float]] = {}
        self._sent_measures: dict[int, list[float]] = {}
        self._looked_at: tuple[Up, NDArray[np.float64]] | None = None
        self._lost: list[int] = []

    def _restart_duals(self) -> None:
        self._acknowledged.clear()
        self._sketches.clear()
        self._measures.clear()
        self._duals[:] = 0
        self._moved, self._stepped = 0.0, 0

    def go_back(self, model: Tensors, buffers: Tensors, blamed: bool) -> bool:
        """Return to an earlier model; with twice the rho, where no client can be blamed."""
        self.discard()
        self.model, self.buffers = model, buffers
        careful = self._settings.adaptive_rho and not blamed
        if careful:
            self._rho = 2 * self._used
        self._penalty.restart()
        self._restart_duals()
        return careful

    def _update(self, round: int) -> dict[str, float]:
        s = self._settings
        self._acknowledged |= self._replies
        self._sketches |= self._sent
        self._measures |= self._sent_measures
        self._duals += self._sum.total
        self._return(self._replies)
        known = [
            node for node in self._acknowledged
            if node in self._examples and node not in self._gone
        ]  # fmt: skip
        share = sum(map(self._weight, known))
        # While some clients have never replied, R_h must not outweigh those that have.
        lambda_ = s.lambda_ * share
        theta = torch.tensor(self.model.vector)
        drift = torch.from_numpy((self._duals + self._sum.total).astype(np.float32))
        slope, terms, bend = torch.zeros(()), dict[str, float](), 0.0
        if self._knowledge is not None:
            slope, terms = self._knowledge.gradient(theta)
            if s.adaptive_rho or s.server_steps > 1:
                bend = lambda_ * self._knowledge.curvature(theta, slope)
        curvature = self._secant(len(self._replies) == len(known), share)
        inner = s.server_steps if self._knowledge is not None else 1
        explicit = inner == 1 and s.update != "exact"  # else R_h enters implicitly
        penalty = self._penalty.total(self._rho * len(known), curvature, bend if explicit else 0.0)
        damping = self._penalty.damping(penalty, bend) if inner > 1 else 0.0
        exact = 2 * lambda_ * self._distance
        # Exact: [2 lambda w theta_c + sum] / (2 lambda w + P), as a step from theta.
        move = drift.sub(slope, alpha=lambda_).div_(penalty + damping + exact)
        for _ in range(inner - 1):
            assert self._knowledge is not None
            pull, terms = self._knowledge.gradient(theta + move)
            move.mul_(damping).add_(drift).sub_(pull, alpha=lambda_).div_(penalty + damping)
        self._used = penalty / len(known)
        move.mul_(self._penalty.shorten(float(move.norm()), float(theta.norm())))
        self.model = self.model.with_vector(theta.add_(move).numpy())
        self._moved, self._stepped = float(move.norm()), round
        return {
            "rho": self._used,
            "curvature": curvature,
            "primal_residual": self._squares**0.5 * len(known) / penalty,
            "dual_residual": penalty * float(move.norm()),
            "step_norm": float(move.norm()),
            **({"transfer_curvature": bend / lambda_} if bend else {}),
            **({"transfer_gradient": float(slope.norm())} if terms else {}),
            **{f"transfer_{name}": value for name, value in terms.items()},
        }

    def _secant(self, everyone: bool, share: float) -> float:
        """Curvature L of sum_i w_i F_i: along the last step, at most the clients' bound.

        Those that were acknowledged in the last step as well speak for all, if they are the most.
        """
        others = 1.0 if everyone else share / self._weights
        bound = self._curvature / self._weights * share
        if self._consecutive and self._moved > 0 and 2 * self._weights > share:
            # Once the steps are small, rounding and the shrinking delta are all that the secant
            # sees; without the bound it would raise rho, which makes the steps smaller still.
            return min(bound, others * float(np.linalg.norm(self._sum.total)) / self._moved)
        return bound

    def _sketch(self, node: int) -> NDArray[np.float64]:
        return np.array(self._sketches.get(node, [0.0] * NUMBERS))

    def _measured(self, node: int, up: Up) -> NDArray[np.float64]:
        """Of the dual that a reply leads to; its norm estimates the dual's."""
        if self._looked_at is None or self._looked_at[0] is not up:
            start = self._measures.get(node, [0.0] * MEASURED) if up.base else [0.0] * MEASURED
            self._looked_at = up, np.array(start) + self._measure(up.increment.vector)
        return self._looked_at[1]

    def _weight(self, node: int) -> float:
        gone = node in self._gone  # if it replies, it is back
        if self._settings.weights == "equal":
            return 1 / (len(self._examples) - len(self._gone) + gone)
        examples = self._examples[node]
        return examples / (self._images + gone * examples)

    def state(self) -> State:
        """Model, buffers, sum of the duals and who is part of it."""
        groups = {
            "model": self.model,
            "buffers": self.buffers,
            "duals": Tensors.pack({"sum": self._duals}),
        }
        acknowledged = {str(node): round for node, round in self._acknowledged.items()}
        return groups, {
            "acknowledged": acknowledged,
            "sketches": {str(node): value for node, value in self._sketches.items()},
            "measures": {str(node): value for node, value in self._measures.items()},
            "believed": {str(node): round for node, round in self._believed.items()},
            "penalty": self._penalty.state(),
            "moved": self._moved,
            "stepped": self._stepped,
            "gone": sorted(self._gone),
            "rho": self._rho,
            "used": self._used,
        }

    def load_state(self, state: State) -> None:
        """Take up what ``state`` gave."""
        groups, notes = state
        self.model, self.buffers = groups["model"], groups["buffers"]
        self._duals = np.array(groups["duals"].unpack()["sum"], np.float64)
        self._acknowledged, self._sketches, self._measures, self._believed = (
            {int(node): value for node, value in notes[name].items()}
            for name in ("acknowledged", "sketches", "measures", "believed")
        )
        self._penalty.load_state(notes["penalty"])
        self._moved, self._stepped = notes["moved"], notes["stepped"]
        self._rho, self._used = notes["rho"], notes["used"]
        self._gone = set(notes["gone"])
        self._images = sum(n for node, n in self._examples.items() if node not in self._gone)
