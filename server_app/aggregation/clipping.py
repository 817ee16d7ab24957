"""A mean of vectors in which none can be far from the others: centered clipping.

    v <- v + sum_i w_i min(1, tau / ||x_i - v||) (x_i - v)

from the median of each entry on, a few times (Karimireddy, He and Jaggi 2021, arXiv 2012.10333,
equation (CC)). tau is the median of the distances to v: the nearer half counts as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = 5
LEAST = 3
"""Vectors from which on one of them can be told from the others."""


def clipped_mean(vectors: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean, shape (d,).

    Parameters
    ----------
    vectors: shape (n, d).
    weights: shape (n,), positive.
    """
    share = weights / weights.sum()
    if len(vectors) < LEAST:
        return share @ vectors.astype(np.float64)
    mean = np.median(vectors, axis=0).astype(np.float64)
    for _ in range(STEPS):
        distances = np.array([np.linalg.norm(vector - mean) for vector in vectors])
        reach = float(np.median(distances))
        factors = share * np.minimum(1, reach / np.maximum(distances, np.finfo(float).tiny))
        mean = mean * (1 - factors.sum()) + factors @ vectors
    return mean
