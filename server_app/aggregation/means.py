"""Weighted means of named tensors that not everybody holds, name by name and entry by entry.

    theta_j <- theta_j + sum_{i has j} n_i delta_ij / sum_{i has j} n_i

An entry that nobody has stays what it was, to the bit. Memory does not grow with the number of
clients. Integer tensors, which count something, take the largest value: an average of counters is
no counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.tensors import Tensors
from server_app.aggregation.expected import Where


class Means:
    """sum_i w_i x_ij / sum_i w_i over the clients i that have entry j, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[Any]] = {}  # of integers, the largest
        self._weights: dict[str, NDArray[np.float64] | float] = {}

    def add(
        self,
        part: Tensors,
        weight: float,
        where: Where | None = None,
        whole: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Take in what one client has.

        Parameters
        ----------
        where: the entries that these are; without it, each tensor is whole.
        whole: with ``where``, shapes of the whole tensors.
        """
        for name, array in part.unpack().items():
            at: Any = ... if where is None else np.ix_(*where[name])
            counts = array.dtype.kind != "f"
            if name not in self._sums:
                shape = array.shape if whole is None else whole[name]
                self._sums[name] = (
                    np.full(shape, _least(array.dtype)) if counts else np.zeros(shape)
                )
                self._weights[name] = 0.0
            total = self._sums[name]
            if counts:
                total[at] = np.maximum(total[at], array)
            else:
                total[at] += array.astype(np.float64) * weight
            weights = self._weights[name]
            if isinstance(weights, float):
                weights = weights + weight if where is None else np.full(total.shape, weights)
            if not isinstance(weights, float):
                weights[at] += weight
            self._weights[name] = weights

    def values(self, old: Tensors) -> Tensors:
        """The means, where there are any; elsewhere the old values.

        Tensors that ``old`` lacks are added behind its own, with zeros where nobody had an entry.
        """
        return self._over(old, changes=False)

    def moved(self, old: Tensors) -> Tensors:
        """The old values plus the means, where what came were changes."""
        return self._over(old, changes=True)

    @property
    def covered(self) -> int:
        """Number of entries that somebody had."""
        return sum(
            int(np.count_nonzero(np.broadcast_to(self._weights[name], total.shape)))
            for name, total in self._sums.items()
        )

    def _over(self, old: Tensors, changes: bool) -> Tensors:
        before = old.unpack()
        after = dict(before)
        for name, total in self._sums.items():
            counts, weights = total.dtype.kind != "f", self._weights[name]
            new = np.zeros(total.shape, total.dtype if counts else np.float32)
            base: NDArray[Any] = before.get(name, new)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total if counts else total / weights + (base if changes else 0.0)
            after[name] = np.where(
                np.broadcast_to(weights, total.shape) > 0, mean.astype(base.dtype), base
            )
        return Tensors.pack(after)


def _least(dtype: np.dtype[Any]) -> np.generic:
    return dtype.type(False if dtype.kind == "b" else np.iinfo(dtype).min)
