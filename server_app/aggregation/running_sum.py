"""A running sum of long vectors that checks each on the way and can take the last one back.

A reply is read from memory once: each block that fits into the processor's cache is squared and
added up before the next is touched. Whether the reply may count is known only at its end, by its
norm; if not, the sum is restored, bit for bit, from a copy and the few vectors that came since.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.tensors import Vector

BLOCK = 1 << 16
"""Elements that are worked on at a time: 256 KiB, which the cache of any core holds."""

GROUP = 16
"""Vectors between two copies of the sum."""

HELD = 64 * 2**20
"""Bytes of vectors, at most, that are held between two copies."""


class RunningSum:
    """sum of factor * vector in float32, in the order of ``keep``, shape (size,)."""

    def __init__(self, size: int) -> None:
        self._total = np.zeros(size, np.float32)
        self._copy: NDArray[np.float32] | None = None
        self._since: list[tuple[Vector, np.float32]] = []
        self._offered: tuple[Vector, np.float32] | None = None
        self._norm = 0.0
        self._scaled = np.empty(min(size, BLOCK), np.float32)
        self._group = max(1, min(GROUP, HELD // max(1, 4 * size)))

    @property
    def total(self) -> NDArray[np.float32]:
        """The sum of all vectors that were kept; valid until the next call."""
        self._withdraw()
        return self._total

    def offer(self, vector: Vector, factor: float = 1.0) -> float:
        """The Euclidean norm of a vector, which counts only if ``keep`` comes next.

        Infinite or NaN if the vector is not finite, or longer than float32 can square.
        """
        self._withdraw()
        if self._copy is None or len(self._since) >= self._group:
            self._save()
        self._offered = (vector, np.float32(factor))
        self._norm = math.sqrt(self._add(*self._offered))
        return self._norm

    def keep(self, vector: Vector, factor: float = 1.0) -> float:
        """Let a vector count, and give its norm; one that was not offered last is offered first."""
        if self._offered is None or self._offered[0] is not vector:
            self.offer(vector, factor)
        assert self._offered is not None
        self._since.append(self._offered)
        self._offered = None
        return self._norm

    def clear(self) -> None:
        """Back to zero."""
        self._total.fill(0)
        self._since.clear()
        self._copy = self._offered = None

    def _add(self, vector: Vector, factor: np.float32) -> float:
        square = 0.0
        with np.errstate(all="ignore"):  # the norm tells
            for start in range(0, len(vector), BLOCK):
                part, so_far = (v[start : start + BLOCK] for v in (vector, self._total))
                square += float(np.dot(part, part))
                if factor != 1:
                    part = np.multiply(part, factor, out=self._scaled[: len(part)])
                np.add(so_far, part, out=so_far)
        return square

    def _withdraw(self) -> None:
        if self._offered is None:
            return
        assert self._copy is not None
        self._offered = None
        np.copyto(self._total, self._copy)
        for vector, factor in self._since:
            self._add(vector, factor)
        self._save()

    def _save(self) -> None:
        if self._copy is None:
            self._copy = np.empty_like(self._total)
        np.copyto(self._copy, self._total)
        self._since.clear()
