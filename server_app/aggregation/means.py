"""Weighted means of named tensors that not everybody holds, name by name and entry by entry.

    theta_j <- theta_j + sum_{i has j} n_i delta_ij / sum_{i has j} n_i

An entry that nobody has stays what it was, to the bit. Memory does not grow with the number of
clients, whose order does not matter. Integer tensors, which count something, take the largest
value: an average of counters is no counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.tensors import Tensors
from server_app.aggregation.exact_sum import ExactSum
from server_app.aggregation.expected import Where

SUM, WHOLE, PARTIAL, LARGEST = "sum", "whole", "partial", "largest"
"""Kinds of what ``parts`` gives."""


class Means:
    """sum_i w_i x_ij / sum_i w_i over the clients i that have entry j, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, ExactSum] = {}
        self._largest: dict[str, NDArray[Any]] = {}  # of integers
        self._whole: dict[str, ExactSum] = {}  # weights of those that have all of a tensor
        self._partial: dict[str, ExactSum] = {}  # and, entry by entry, of those that have some

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
            at = None if where is None else np.ix_(*where[name])
            shape = array.shape if where is None or whole is None else whole[name]
            if array.dtype.kind == "f":
                self._sums.setdefault(name, ExactSum(shape)).add(array, weight, at)
            else:
                largest = self._largest.setdefault(name, np.full(shape, _least(array.dtype)))
                there = ... if at is None else at
                largest[there] = np.maximum(largest[there], array)
            if at is None:
                self._whole.setdefault(name, ExactSum(())).add(weight)
            else:
                self._partial.setdefault(name, ExactSum(shape)).add(weight, at=at)

    def values(self, old: Tensors) -> Tensors:
        """The means, where there are any; elsewhere the old values.

        Tensors that ``old`` lacks are added behind its own, with zeros where nobody had an entry.
        """
        return self._over(old, changes=False)

    def moved(self, old: Tensors) -> Tensors:
        """The old values plus the means, where what came were changes."""
        return self._over(old, changes=True)

    def parts(self) -> dict[str, NDArray[Any]]:
        """All that was added up, by kind, tensor and grid; ``merge`` takes it in elsewhere."""
        found: dict[str, NDArray[Any]] = {f"{LARGEST}/{n}": a for n, a in self._largest.items()}
        for kind, sums in self._exact().items():
            for name, total in sums.items():
                found |= {f"{kind}.{k}/{name}": grid for k, grid in enumerate(total.grids)}
        return found

    def merge(self, parts: Mapping[str, NDArray[Any]]) -> None:
        """Take in what ``parts`` gave of means over other clients.

        Raises
        ------
        ValueError: it is none of that.
        """
        exact = self._exact()
        grids: dict[tuple[str, str], list[NDArray[Any]]] = {}
        for key, array in parts.items():
            of, _, name = key.partition("/")
            kind = of.partition(".")[0]
            there = grids.setdefault((kind, name), [])
            if of != (LARGEST if kind not in exact else f"{kind}.{len(there)}"):
                raise ValueError(f"{key[:80]} is no part of a mean, or not the next one")
            there.append(array)
        for (kind, name), found in grids.items():
            if kind == LARGEST:
                known = self._largest.setdefault(name, found[0])
                self._largest[name] = np.maximum(known, found[0])
            else:
                exact[kind].setdefault(name, ExactSum(found[0].shape)).merge(found)

    def _exact(self) -> dict[str, dict[str, ExactSum]]:
        return {SUM: self._sums, WHOLE: self._whole, PARTIAL: self._partial}

    @property
    def covered(self) -> int:
        """Number of entries that somebody had."""
        return sum(
            int(np.count_nonzero(self._weights(name, total.shape)))
            for name, total in self._totals().items()
        )

    def _totals(self) -> dict[str, NDArray[Any]]:
        """By name, in the order of the names: that of the clients must not matter."""
        sums = {name: total.total for name, total in self._sums.items()}
        return dict(sorted((sums | self._largest).items()))

    def _weights(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        both = [sums[name].total for sums in (self._whole, self._partial) if name in sums]
        return np.broadcast_to(sum(both[1:], both[0]), shape)

    def _over(self, old: Tensors, changes: bool) -> Tensors:
        before = old.unpack()
        after = dict(before)
        for name, total in self._totals().items():
            counts, weights = total.dtype.kind != "f", self._weights(name, total.shape)
            new = np.zeros(total.shape, total.dtype if counts else np.float32)
            base: NDArray[Any] = before.get(name, new)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total if counts else total / weights + (base if changes else 0.0)
            after[name] = np.where(weights > 0, mean.astype(base.dtype), base)
        return Tensors.pack(after)


def _least(dtype: np.dtype[Any]) -> np.generic:
    return dtype.type(False if dtype.kind == "b" else np.iinfo(dtype).min)
