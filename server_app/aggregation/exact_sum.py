"""Sums of long arrays that are the same bits in whatever order the arrays come.

The order of a floating-point sum decides its last bits. Here each number is first cut into parts
on fixed grids, a coarse one and finer ones; sums of multiples of one grid are exact in float64 as
long as they stay below 2^53 of its steps, and exact sums know no order. What is lost is what lies
below half a step of the finest grid, of each number by itself. (Demmel and Nguyen, Fast
Reproducible Floating-Point Summation, ARITH 2013, with grids that do not depend on the numbers.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FINEST = -50
"""Binary logarithm of the step of the finest grid: 9e-16."""

WIDTH = 34
"""Binary digits between two grids. A number takes part in a grid with less than 2^34 of its steps,
so that 2^18 numbers, far more than a round has replies, stay below 2^52."""

BLOCK = 1 << 14
"""Elements that are worked on at a time, which the cache of any core holds."""


class ExactSum:
    """sum of factor * values, each product as float64 has it, for arrays of one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._grids: list[NDArray[np.float64]] = []  # from the finest to the coarsest in use

    @property
    def total(self) -> NDArray[np.float64]:
        """The sum so far, of the shape."""
        total = np.zeros(self._shape)
        for grid in reversed(self._grids):
            total += grid
        return total

    def add(self, values: NDArray[Any] | float, factor: float = 1.0, at: Any = None) -> None:
        """Add finite numbers.

        Parameters
        ----------
        at: index of the entries that these are, each at most once; without it, of all.

        Raises
        ------
        ValueError: a product is not finite.
        """
        array = np.asarray(values)
        if at is not None:
            for number, part in _parts(np.asarray(np.multiply(array, factor, dtype=np.float64))):
                self._grid(number)[at] += part
            return
        flat = array.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            end = start + BLOCK
            for number, part in _parts(np.multiply(flat[start:end], factor, dtype=np.float64)):
                there = self._grid(number).reshape(-1)[start:end]
                np.add(there, part, out=there)

    @property
    def grids(self) -> list[NDArray[np.float64]]:
        """What the sum consists of, from the finest grid to the coarsest in use."""
        return self._grids

    def merge(self, grids: Iterable[NDArray[np.float64]]) -> None:
        """Add what another sum of this shape consists of: exact, like every number by itself."""
        for number, grid in enumerate(grids):
            there = self._grid(number)
            np.add(there, grid, out=there)

    def _grid(self, number: int) -> NDArray[np.float64]:
        while len(self._grids) <= number:
            self._grids.append(np.zeros(self._shape))
        return self._grids[number]


def _parts(numbers: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Grid -> multiples of its step, which together are ``numbers``; overwrites ``numbers``.

    A part is valid until the next one.
    """
    if not numbers.size:
        return
    largest = max(float(numbers.max()), -float(numbers.min()))
    if not math.isfinite(largest):
        raise ValueError("numbers that are not finite cannot be added up")
    part = np.empty_like(numbers)
    coarsest = max(0, -((FINEST - math.frexp(largest)[1]) // WIDTH) - 1) if largest else 0
    for number in range(coarsest, -1, -1):
        # In float64, what is added to 1.5 * 2^52 steps is rounded to whole steps.
        shift = math.ldexp(1.5, 52 + FINEST + WIDTH * number)
        np.add(numbers, shift, out=part)
        np.subtract(part, shift, out=part)
        yield number, part
        if number:
            np.subtract(numbers, part, out=numbers)
