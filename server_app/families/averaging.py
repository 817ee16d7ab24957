"""The server half that many methods share: a weighted average of changes, added to the model."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from common.tensors import Tensors
from server_app.aggregation.expected import Exactly, Expected, Vector
from server_app.method import Method, Replies, Saved
from server_app.validation.errors import Rejected


class Averaging(Method):
    """theta <- theta + sum_i n_i (theta_i - theta) / sum_i n_i.

    BatchNorm's running statistics, where they come with the replies, are averaged the same way.
    """

    model: Saved[Tensors]

    def expects(self, client: int) -> Expected:
        """A change of the model, and statistics where the contract has them."""
        assert self.up is not None
        named = {"change": Vector(self.model.specs), "buffers": Exactly(self.buffers.specs)}
        return {f.name: named[f.name] for f in fields(self.up) if f.name in named}

    def check(self, client: int, up: Any, sizes: dict[str, float]) -> dict[str, float]:
        """Sizes of the change and of the statistics."""
        return sizes | ({"buffers": _size(up.buffers)} if "buffers" in sizes else {})

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Add the weighted average of the changes to the model."""
        change = replies.average("change").vector
        self.model = self.model.with_vector(self.model.vector + change)
        self.buffers = replies.averaged("buffers", self.buffers)
        return {"step_norm": float(np.linalg.norm(change))}


def _size(buffers: Tensors) -> float:
    """Norm of the running statistics; what no statistic can be is refused."""
    square = 0.0
    for name, array in buffers.unpack().items():
        if name.endswith("running_var") and array.size and not (least := array.min()) >= 0:
            told = f"{name} has a variance below zero or not finite"
            raise Rejected("buffers", told, not math.isfinite(least))
        if array.dtype.kind == "f":
            square += float(np.square(array, dtype=np.float64).sum())
        elif array.dtype.kind == "i" and array.size and not 0 <= array.min() <= array.max() < 2**40:
            raise Rejected("buffers", f"{name} counts {array.min()} to {array.max()}")
    return math.sqrt(square)
