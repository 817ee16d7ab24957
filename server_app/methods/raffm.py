"""RaFFM, the server's half (arXiv 2310.00247): each device trains as much as it can hold.

A device gets the slice of the first heads and channels of each layer, of a width out of ``widths``.
Entry by entry the changes are averaged over those whose slice has it, and what nobody has stays:

    theta_j <- theta_j + sum_{i has j} n_i delta_ij / sum_{i has j} n_i

The released program averages zero-padded weights over all instead, and what few devices hold
shrinks. At the start and behind each step, and nowhere else, heads and channels are sorted by
salience, so that the first are the most salient again and model and order are one.

With ``order="none"`` and ``draw="own"`` it is width by prefix, as HeteroFL (arXiv 2010.01264) has
it but for its scaling of activations; with ``dropout`` ordered dropout, as FjORD
(arXiv 2102.13451) has it without self-distillation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from common.capacity import Cost, Load, cost, widest
from common.errors import ModelError
from common.methods.raffm import BATCH, WIDTHS, Down, Up
from common.models.widths import Group, Where, arranged, groups_of, part, salience, taken
from common.seeds import seed_for
from common.sgd import LocalSgd
from common.task import hollow
from common.tensors import Spec, Tensors
from server_app.aggregation.expected import Expected, Part
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies, Saved, Setup, Source

LATE = 2
"""Times that a device may be late before it gets the next smaller network."""


class Settings(MethodSettings):
    """Widths, who trains which, and local SGD as published but for Adam."""

    widths: str = Field(WIDTHS, description="Shares of the network that devices may train.")
    assign: str = Field(
        "", description="Widths of the clients, in turn; empty: what each device can hold."
    )
    draw: Literal["own", "sandwich"] = Field(
        "sandwich", description="A device's own width, or one within it, drawn for each round."
    )
    order: Literal["salience", "random", "none"] = Field(
        "salience", description="Of heads and channels, behind each round."
    )
    dropout: bool = Field(False, description="Ordered dropout: each step draws a smaller width.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=BATCH)

    @property
    def all_widths(self) -> list[float]:
        """``widths`` from large to small."""
        return sorted(_numbers(self.widths), reverse=True)

    @property
    def assigned(self) -> list[float]:
        """``assign`` in its order."""
        return _numbers(self.assign)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.all_widths:
            raise ValueError("widths is empty; give at least one, such as 1")
        if unknown := [width for width in self.assigned if width not in self.all_widths]:
            raise ValueError(f"assign has {unknown[0]:g}, which is not in widths={self.widths}")
        return self


def _numbers(text: str) -> list[float]:
    try:
        found = [float(each) for each in text.split(",") if each.strip()]
    except ValueError:
        found = [math.nan]
    if not all(0 < each <= 1 for each in found):
        raise ValueError(f"{text!r} is no list of widths, over 0 and at most 1, such as 1,0.5")
    return found


class Server(Averaging):
    """Slices, the mean of their changes where they are, and the order of heads and channels.

    Attributes
    ----------
    widths: client -> the largest width that it trains.
    reasons: client -> why.
    by_hand: client -> the width that its operator has set.
    lateness: client -> times it was late at its width.
    """

    down, up = Down, Up
    widths: Saved[dict[int, float]]
    reasons: Saved[dict[int, str]]
    by_hand: Saved[dict[int, float]]
    lateness: Saved[dict[int, int]]

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.widths, self.reasons, self.by_hand, self.lateness = {}, {}, {}, {}
        self._drawn: dict[int, float] = {}
        self._cut: tuple[Tensors, dict[float, tuple[Tensors, Tensors]]] = (setup.model, {})
        self._where: dict[float, tuple[Where, Where]] = {}
        self._costs: list[Cost] = []
        if setup.task and setup.task.tuning:
            raise ModelError(
                f"model {setup.task.architecture} is trained in part, and its units cannot be "
                "sorted or left out; train all of it, or choose another method"
            )
        # Without a task there is no network that could be cut.
        self.all_widths: list[float] = settings.all_widths if setup.task else [1.0]
        self.groups: list[Group] = groups_of(hollow(setup.task)) if setup.task else []
        if self.all_widths != [1.0] and not any(group.cut for group in self.groups):
            assert setup.task is not None
            raise ModelError(
                f"model {setup.task.architecture} has no units that could be left out; choose "
                "another, or raffm.widths=1"
            )
        self._sort(0)

    @property
    def timed(self) -> tuple[float, int] | None:
        """A step of the smallest network, unless widths are assigned or there is one only."""
        if self.settings.assigned or len(self.all_widths) == 1:
            return None
        return self.all_widths[-1], self.settings.sgd.batch_size

    def enrol(self, client: int, source: Source) -> None:
        """Decide on a device's width once; its operator's word is taken at any time."""
        super().enrol(client, source)
        if source.width and self.by_hand.get(client) == source.width:
            return
        if source.width:
            self.by_hand = {**self.by_hand, client: source.width}
        elif client in self.widths:
            return
        width, reason = self._choose(client, source)
        self._set(client, width, reason)

    def late(self, clients: Sequence[int]) -> None:
        """A device that is late for the second time gets the next smaller network."""
        for client in clients:
            times, own = self.lateness.get(client, 0) + 1, self._width(client)
            if times >= LATE and own != self.all_widths[-1]:
                smaller = max(width for width in self.all_widths if width < own)
                self._set(client, smaller, f"late {times} times with {own:g}")
            else:
                self.lateness = {**self.lateness, client: times}

    def begin(self, round: int, clients: Sequence[int]) -> None:
        """Draw widths: one device trains all that it can, one the smallest, the others between.

        The sandwich rule: without a device that holds all, the tail would stay what it was.
        """
        self._drawn = {client: self._width(client) for client in clients}
        if self.settings.draw == "own" or len(self.all_widths) == 1:
            return
        dice = random.Random(seed_for(self.setup.seed, "widths", round))
        order = sorted(dice.sample(clients, len(clients)), key=self._width, reverse=True)
        for client in order[1:-1]:
            possible = [width for width in self.all_widths if width <= self._width(client)]
            self._drawn[client] = dice.choice(possible)
        for client in order[1:][-1:]:
            self._drawn[client] = self.all_widths[-1]

    def broadcast(self, round: int, client: int, **more: Any) -> Down:
        """The client's slice."""
        width = self._drawn.get(client, self._width(client))
        model, buffers = self._slice(width)
        inner = [each for each in self.all_widths if each <= width] if self.settings.dropout else []
        return super().broadcast(
            round, client, model=model, buffers=buffers, width=width, inner=inner, **more
        )

    def expects(self, client: int) -> Expected:
        """The change and the statistics of the slice that this client was sent."""
        if self.all_widths == [1.0]:
            return super().expects(client)
        model, buffers = self._places(self._drawn.get(client, self._width(client)))
        return {
            "change": Part(self.model.specs, model),
            "buffers": Part(self.buffers.specs, buffers),
        }

    def brief(self, clients: Sequence[int]) -> dict[str, Any]:
        """Which slices they were sent."""
        return {str(client): self._drawn.get(client, self._width(client)) for client in clients}

    def take_brief(self, notes: Mapping[str, Any]) -> None:
        """Which slices these clients were sent."""
        self._drawn = {int(client): width for client, width in notes.items()}

    def served(self, client: int, source: Source) -> tuple[Tensors | None, Tensors, float]:
        """What a client can hold; one that has never trained is asked for its width likewise."""
        if (width := self.widths.get(client)) is None:
            width = self._choose(None, source)[0]
        return *self._slice(width), width

    def about(self, client: int) -> dict[str, Any]:
        """Its width in this round, the largest that it trains, and why."""
        own = self._width(client)
        reason = self.reasons.get(client, "")
        return {"width": self._drawn.get(client, own), "widest": own, "why": reason}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """The means of the changes, and then the order."""
        before = self.model.vector
        self.model = replies.moved("change", self.model)
        self.buffers = replies.averaged("buffers", self.buffers)
        metrics = {"step_norm": float(np.linalg.norm(self.model.vector - before))}
        if self.all_widths != [1.0]:
            metrics["covered"] = replies.covered("change") / len(self.model)
            trained = [self._drawn.get(client, self._width(client)) for client in replies.ups]
            metrics |= {f"at_{width:g}": float(trained.count(width)) for width in self.all_widths}
        self._sort(round)
        return metrics

    def _choose(self, client: int | None, source: Source) -> tuple[float, str]:
        if source.width:
            fit = [width for width in self.all_widths if width <= source.width]
            return (fit or self.all_widths[-1:])[0], f"set on the device: {source.width:g}"
        if client is not None and self.settings.assigned:
            return self.settings.assigned[client % len(self.settings.assigned)], "assigned"
        if len(self.all_widths) == 1 or self.setup.task is None:
            return self.all_widths[0], "the only width"
        self._costs = self._costs or [cost(self.setup.task, width) for width in self.all_widths]
        sgd = self.settings.sgd
        batch = min(sgd.batch_size or source.examples, source.examples)
        load = Load(batch, sgd.epochs * math.ceil(source.examples / batch), self.setup.deadline)
        return widest(self._costs, source.measured, load)

    def _set(self, client: int, width: float, reason: str) -> None:
        self.widths = {**self.widths, client: width}
        self.reasons = {**self.reasons, client: reason}
        self.lateness = {**self.lateness, client: 0}

    def _width(self, client: int) -> float:
        return self.widths.get(client, self.all_widths[0])

    def _places(self, width: float) -> tuple[Where, Where]:
        if width not in self._where:
            specs = self.model.specs, self.buffers.specs
            self._where[width] = tuple(part(self.groups, each, width) for each in specs)  # type: ignore[assignment]
        return self._where[width]

    def _slice(self, width: float) -> tuple[Tensors, Tensors]:
        """Of the model as it is now; the same object for all who get it."""
        if width == 1:
            return self.model, self.buffers
        if self._cut[0] is not self.model:
            self._cut = (self.model, {})
        if width not in self._cut[1]:
            model, buffers = self._places(width)
            self._cut[1][width] = taken(self.model, model), taken(self.buffers, buffers)
        return self._cut[1][width]

    def _sort(self, round: int) -> None:
        rule, groups = self.settings.order, self.groups
        if rule == "none" or not groups:
            return
        tensors = self.model.unpack() | self.buffers.unpack()
        dice = np.random.default_rng(seed_for(self.setup.seed, "order", round))
        orders = []
        for group in groups:
            score = dice.random(group.units) if rule == "random" else salience(group, tensors)
            orders.append((group, np.argsort(-score, kind="stable")))
        new = arranged(tensors, orders)
        self.model = _repacked(self.model.specs, new)
        self.buffers = _repacked(self.buffers.specs, new)


def _repacked(specs: Sequence[Spec], arrays: dict[str, Any]) -> Tensors:
    return Tensors.pack({name: arrays[name] for name, _, _ in specs})
