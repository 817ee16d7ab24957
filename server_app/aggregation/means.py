"""Weighted means of named tensors that not everybody holds, name by name and entry by entry.

    theta_j <- theta_j + sum_{i has j} n_i delta_ij / sum_{i has j} n_i

An entry that nobody has stays what it was, to the bit. Memory does not grow with the number of
clients. Integer tensors, which count something, take the largest value: an average of counters is
no counter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.tensors import Tensors
from server_app.aggregation.expected import Where


class Means:
    """sum_i w_i x_ij / sum_i w_i over the clients i that have entry j, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._weights: dict[str, NDArray[np.float64] | float] = {}
        self._largest: dict[str, NDArray[np.generic]] = {}

    def add(
        self,
        part: Tensors,
        weight: float,
        where: Where | None = None,
        whole: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Take in what one client has.

        Parameters
        ----------
        where: the entries that these are; without it, each tensor is whole.
        whole: with ``where``, shapes of the whole tensors.
        """
        for name, array in part.unpack().items():
            if array.dtype.kind != "f":
                self._largest[name] = np.maximum(self._largest.get(name, array), array)
                continue
            weighted = array.astype(np.float64) * weight
            if where is None:
                self._sums[name] = self._sums.get(name, 0.0) + weighted
                self._weights[name] = self._weights.get(name, 0.0) + weight
                continue
            assert whole is not None
            if name not in self._sums:
                self._sums[name], self._weights[name] = (np.zeros(whole[name]) for _ in range(2))
            at = np.ix_(*where[name])
            self._sums[name][at] += weighted
            self._weights[name][at] += weight  # type: ignore[index]

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
            weights = self._weights[name]
            base: NDArray[Any] = before.get(name, np.zeros(total.shape, np.float32))
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = (total / weights + (base if changes else 0.0)).astype(base.dtype)
            after[name] = np.where(np.broadcast_to(weights, total.shape) > 0, mean, base)
        return Tensors.pack(after | self._largest)
