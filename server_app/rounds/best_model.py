"""Where a run that has lost its way returns to: the best model so far.

The model may be lost by a step that was too long, because of a rho or a learning rate, or by a
reply that passed the gate. It shows in the loss that the clients tell of it, or in replies most of
which the gate rejects. The shell looks for both, whatever the method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.tensors import Tensors


class BestModel:
    """The model of the lowest loss, and what loss the run began with.

    A loss is that of the model that a round began with.

    Attributes
    ----------
    round: the one that began with the best model; 0 if there is none.
    there: whether the model is that model, because the run went back to it.
    vain: times that it did since the best model was found, without anybody or anything to blame.
    """

    def __init__(self) -> None:
        self.model: Tensors | None = None
        self.buffers: Tensors | None = None
        self.round = 0
        self.there = False
        self.vain = 0
        self._best = math.inf
        self._first: float | None = None

    @property
    def first(self) -> float:
        """Loss of the first round, nats."""
        return math.nan if self._first is None else self._first

    def excess(self, round: int, loss: float, model: Tensors | None, buffers: Tensors) -> float:
        """How many times too high the loss of a model is; the best model is remembered."""
        if math.isnan(loss):  # no reply that counts has told of one
            return 0.0
        if self._first is None:
            self._first = loss
        if loss < self._best:
            self._best, self.model, self.buffers = loss, model, buffers
            self.round, self.vain = round, 0
        return loss / max(self._first, 1.0)

    def best(self, round: int) -> tuple[Tensors | None, Tensors] | None:
        """Model and buffers that a round began with, if they are the best so far."""
        if self.buffers is None or self.round != round:
            return None
        return self.model, self.buffers

    def state(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """All that is needed to go on."""
        kept = {"best-model": self.model, "best-buffers": self.buffers}
        groups = {name: tensors for name, tensors in kept.items() if tensors is not None}
        best = self._best if math.isfinite(self._best) else None
        return groups, {
            "best": best,
            "first": self._first,
            "round": self.round,
            "there": self.there,
            "vain": self.vain,
        }

    def load_state(self, groups: Mapping[str, Tensors], notes: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self.model, self.buffers = groups.get("best-model"), groups.get("best-buffers")
        self._best = math.inf if notes["best"] is None else notes["best"]
        self._first, self.round = notes["first"], notes["round"]
        self.there, self.vain = notes["there"], notes["vain"]
