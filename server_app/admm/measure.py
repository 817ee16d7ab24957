"""The length of a vector that is known only as a sum of others, by signs that nobody else knows.

Eight sums of all entries with random signs, divided by sqrt(8): linear in the vector, and of its
length in the mean of squares (Alon, Matias, Szegedy, 1996). Whoever knows the signs can send a
vector whose eight sums are zero, round after round, and so move a dual to any place while its
length seems to stay. They come from the run's secret, which is on the server alone.

Entry i of block c has, in sum k, the sign a[i, k] b[c, k]. Two entries differ in their signs,
wherever they are, in four of the eight sums on average; and the table of signs fits the cache.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from common.tensors import Vector

NUMBERS = 8
BLOCK = 1 << 13


class Measure:
    """Measures vectors of one length."""

    def __init__(self, secret: bytes, size: int) -> None:
        blocks = math.ceil(size / BLOCK)
        # The bytes of a hash are the same in every release of every library.
        stream = hashlib.shake_256(b"augflower measure" + secret).digest(BLOCK + blocks)
        bits = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(-1, NUMBERS)
        signs = 1 - 2 * bits.astype(np.float32)
        self._within, self._of_block = signs[:BLOCK], signs[BLOCK:].astype(np.float64)

    def __call__(self, vector: Vector) -> NDArray[np.float64]:
        """The eight sums, shape (8,); not finite if the vector is not, or too long for float32."""
        whole, rest = divmod(len(vector), BLOCK)
        with np.errstate(all="ignore"):
            sums = vector[: whole * BLOCK].reshape(whole, BLOCK) @ self._within
            total = (sums * self._of_block[:whole]).sum(axis=0)
            if rest:
                total += (vector[whole * BLOCK :] @ self._within[:rest]) * self._of_block[whole]
        return np.asarray(total / math.sqrt(NUMBERS), np.float64)
