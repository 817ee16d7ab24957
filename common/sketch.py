"""Eight numbers by which two long vectors can be told apart, and which add up as the vectors do.

A count sketch (Charikar, Chen, Farach-Colton, 2002) whose buckets are blocks of the vector: number
k is the sum, with fixed random signs, of every eighth block. It is linear, s(x + y) = s(x) + s(y),
and |s(x)| estimates |x|. Of large blocks only the beginning is read: two states of one model differ
everywhere or not at all.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.tensors import Vector

NUMBERS = 8
BLOCK = 1 << 16
READ = 1 << 13

TOLERANCE = 1e-3
"""Relative; sums of float32 in another order differ by a hundredth of it."""

# The raw bits of a generator are the same in every release of NumPy; its distributions are not.
_BITS = np.random.PCG64(20250302).random_raw(READ // 64).astype("<u8").view(np.uint8)
_SIGNS = 1 - 2 * np.unpackbits(_BITS).astype(np.float32)


def sketch(vector: Vector) -> NDArray[np.float64]:
    """s(vector), shape (8,)."""
    block = min(BLOCK, max(1, math.ceil(len(vector) / NUMBERS)))
    result = np.zeros(NUMBERS)
    for number, start in enumerate(range(0, len(vector), block)):
        part = vector[start : start + min(block, READ)]
        result[number % NUMBERS] += float(np.dot(part, _SIGNS[: len(part)]))
    return result


def agree(one: ArrayLike, other: ArrayLike, size: float = 0.0) -> bool:
    """Whether two sketches are of the same vector, but for rounding.

    Parameters
    ----------
    size: norm of the vectors that were added on the way, whose sum was rounded.
    """
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != (NUMBERS,) or b.shape != (NUMBERS,):
        return False
    return bool(np.linalg.norm(a - b) <= TOLERANCE * (np.linalg.norm(b) + size))
