"""The server half that many methods share: a weighted average of changes, added to the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.tensors import Tensors
from server_app.client_losses import Losses
from server_app.ground import LOST
from server_app.method import Setup, State
from server_app.rejection import Rejected
from server_app.summation import Sum


class Averaging:
    """theta <- theta + rate * sum_i n_i (theta_i - theta) / sum_i n_i, one reply at a time.

    Memory does not grow with the number of clients. BatchNorm's running statistics, where they
    come with the replies, are averaged the same way; integer buffers take the largest value,
    because an average of counters is no counter.
    """

    def __init__(self, setup: Setup, rate: float = 1.0) -> None:
        self.model = setup.model
        self.buffers = setup.buffers
        self._rate = rate
        self._sum = Sum(len(setup.model))
        self.discard()

    @property
    def loss(self) -> float:
        """Mean of the replies' losses, by weight."""
        return self._losses.mean

    @property
    def lost(self) -> float:
        """Averages of few clients may lose much for a while."""
        return LOST

    def enrol(self, node: int, examples: int) -> None:
        """Weights come with the replies; nothing to do."""

    def leave(self, nodes: Sequence[int]) -> None:
        """Nothing is kept of a client."""

    def weight(self, up: Any) -> int:
        """What a reply counts for."""
        return int(up.examples)

    def offer(self, node: int, up: Any) -> dict[str, float]:
        """Sizes of the change and of the buffers."""
        sizes = {"change": self._sum.offer(up.change.vector, self.weight(up))}
        if hasattr(up, "buffers"):
            sizes["buffers"] = _size(up.buffers)
        return sizes

    def add(
        self, change: Tensors, examples: int, loss: float, buffers: Tensors | None = None
    ) -> None:
        """Take in one client's change, with its number of examples as weight."""
        self._sum.keep(change.vector, examples)
        self._examples += examples
        self._losses.add(loss, examples)
        for name, array in (buffers.unpack() if buffers else {}).items():
            if array.dtype.kind == "f":
                so_far = self._buffers.setdefault(name, np.zeros(array.shape, np.float64))
                so_far += array.astype(np.float64) * examples
            else:
                self._buffers[name] = np.maximum(self._buffers.get(name, array), array)

    def step(self, round: int) -> dict[str, float]:
        """Add the weighted average of the changes to the model."""
        change = self._sum.total * np.float32(self._rate / self._examples)
        self.model = self.model.with_vector(self.model.vector + change)
        if self._buffers:
            old = self.buffers.unpack()
            self.buffers = Tensors.pack(
                {
                    name: (
                        self._buffers[name] / self._examples
                        if array.dtype.kind == "f"
                        else self._buffers[name]
                    ).astype(array.dtype)
                    for name, array in old.items()
                }
            )
        metrics = {"loss": self.loss, "step_norm": float(np.linalg.norm(change))}
        self.discard()
        return metrics

    def discard(self) -> None:
        """Forget the replies of this round."""
        self._sum.clear()
        self._buffers: dict[str, np.ndarray] = {}
        self._examples = 0
        self._losses = Losses()

    def go_back(self, model: Tensors, buffers: Tensors, blamed: bool) -> bool:
        """Take an earlier model; there is no rate of its own to lower."""
        self.discard()
        self.model, self.buffers = model, buffers
        return False

    def state(self) -> State:
        """Model and buffers."""
        return {"model": self.model, "buffers": self.buffers}, {}

    def load_state(self, state: State) -> None:
        """Take up model and buffers."""
        self.model, self.buffers = state[0]["model"], state[0]["buffers"]


def _size(buffers: Tensors) -> float:
    """Norm of the running statistics; what no statistic can be is refused."""
    square = 0.0
    for name, array in buffers.unpack().items():
        if name.endswith("running_var") and array.size and not array.min() >= 0:
            raise Rejected("buffers", f"{name} has a variance below zero or not finite")
        if array.dtype.kind == "f":
            square += float(np.square(array, dtype=np.float64).sum())
        elif array.dtype.kind == "i" and array.size and not 0 <= array.min() <= array.max() < 2**40:
            raise Rejected("buffers", f"{name} counts {array.min()} to {array.max()}")
    return math.sqrt(square)
