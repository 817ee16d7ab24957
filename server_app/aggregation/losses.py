"""Means over the clients of a round in which no number has more say than its share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

DEVIATIONS = 8.0
SMALLEST = 0.25
"""Of the deviations, nats: that of a round in which all clients are as good is nearly nothing."""


def bound(numbers: Sequence[float], smallest: float) -> float:
    """8 deviations above the median; a deviation is 1.4826 times the median absolute one.

    Parameters
    ----------
    smallest: deviation, at least.
    """
    middle = float(np.median(numbers))
    deviation = max(smallest, 1.4826 * float(np.median(np.abs(np.array(numbers) - middle))))
    return middle + DEVIATIONS * deviation


class Losses:
    """Weighted mean of the losses that come with the replies of a round.

    A loss is what its sender says. The mean takes one that is more than 8 deviations above the
    median, of at least 0.25 nats, as these 8. Without such a loss it is the plain mean.
    """

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._weights: list[float] = []

    def add(self, loss: float, weight: float) -> None:
        """Take in one client's loss."""
        self._losses.append(loss)
        self._weights.append(weight)

    @property
    def mean(self) -> float:
        """Nats; NaN without any."""
        if not self._losses:
            return float("nan")
        most = bound(self._losses, SMALLEST)
        pairs = zip(self._losses, self._weights, strict=True)
        total = math.fsum(weight * min(loss, most) for loss, weight in pairs)
        return total / math.fsum(self._weights)
