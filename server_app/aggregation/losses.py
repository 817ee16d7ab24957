"""The loss of a round: a mean over clients in which none has more say than its share."""

from __future__ import annotations

import math

import numpy as np

DEVIATIONS = 8.0
SMALLEST = 0.25
"""Of the deviations, nats: that of a round in which all clients are as good is nearly nothing."""


class Losses:
    """Weighted mean of the losses that come with the replies of a round.

    A loss is what its sender says. The mean takes one that is more than 8 deviations above the
    median as these 8; a deviation is 1.4826 times the median absolute one, and at least 0.25 nats.
    Without such a loss it is the plain mean.
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
        losses = np.array(self._losses)
        middle = float(np.median(losses))
        deviation = max(SMALLEST, 1.4826 * float(np.median(np.abs(losses - middle))))
        most = middle + DEVIATIONS * deviation
        pairs = zip(self._losses, self._weights, strict=True)
        total = math.fsum(weight * min(loss, most) for loss, weight in pairs)
        return total / math.fsum(self._weights)
