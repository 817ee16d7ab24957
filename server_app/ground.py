"""Where a run that has lost its way returns to: the best model so far.

A run with a rho that is far too small may grow out of every step without a single one that stands
out. What shows it is the loss on the clients' query images, which comes with every reply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.tensors import Tensors

WORSE = 3.0
"""Times the loss that the run began with, or 1 nat where it began with less."""

LOST = 100.0
"""Times that loss: nothing is left that could come back by itself."""


class Ground:
    """The model of the lowest loss, and what loss the run began with."""

    def __init__(self) -> None:
        self.model: Tensors | None = None
        self._best = math.inf
        self._first: float | None = None

    @property
    def first(self) -> float:
        """Loss of the first round, nats."""
        return math.nan if self._first is None else self._first

    def excess(self, loss: float, model: Tensors) -> float:
        """How many times too high the loss of a model is; the best model is remembered."""
        if self._first is None:
            self._first = loss
        if loss < self._best:
            self._best, self.model = loss, model
        return loss / max(self._first, 1.0)

    def state(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """All that is needed to go on."""
        groups = {} if self.model is None else {"ground": self.model}
        best = self._best if math.isfinite(self._best) else None
        return groups, {"best": best, "first": self._first}

    def load_state(self, groups: Mapping[str, Tensors], notes: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self.model = groups.get("ground")
        self._best = math.inf if notes["best"] is None else notes["best"]
        self._first = notes["first"]
