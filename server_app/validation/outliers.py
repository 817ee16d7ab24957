"""Outlier bounds of a positive number such as a norm, from those of the same round.

limit = exp(median + 8 sigma) of the logarithms of a round's numbers. sigma is 1.4826 times the
median absolute deviation from the median of each number's own round, over recent rounds, and at
least 0.45, or 0.6 where few are known. All numbers of a round rise and fall together, by far more
than they differ: a limit for the numbers of many rounds would be too low where they rise, and let
lies pass where they fall.
Measured on honest runs in ``docs/gate.md``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

LEAST = 3
"""Numbers that must have been seen before they can bound any: of two, neither is an outlier."""

WARM_UP = 20
"""Numbers from which on their deviation is taken as it is."""

ROUNDS = 20
"""Recent rounds whose numbers count."""

SHARE = 100
"""Numbers of one round that are kept, evenly from the smallest to the largest."""

DEVIATIONS = 8.0
DOUBTFUL = 4.0
"""Deviations from which on a number is let pass, but remembered if the model is lost later."""

FEW = 10
"""Numbers of a round from which on their median is taken as it is."""

SMALLEST = 0.45
UNSURE = 0.6
"""Smallest sigma, and that before ``WARM_UP`` or in a round of ``FEW``: few may lie close together
by chance."""

CAP = 1e6
"""Too much for any norm or curvature, also while nothing is known."""


class OutlierBound:
    """The bounds of one kind of number."""

    def __init__(self, rounds: Iterable[Sequence[float]] = ()) -> None:
        self._rounds: deque[list[float]] = deque(maxlen=ROUNDS)
        for numbers in rounds:
            self.extend(numbers)

    def extend(self, numbers: Iterable[float]) -> None:
        """Let the numbers of a round bound those that follow; zeros have no say."""
        found = sorted(number for number in numbers if number > 0)
        if len(found) > SHARE:
            found = [found[round(at)] for at in np.linspace(0, len(found) - 1, SHARE)]
        if found:
            self._rounds.append(found)

    def limit(self, deviations: float, now: Iterable[float] = ()) -> float:
        """What is so many deviations above the median; more may be too much.

        Parameters
        ----------
        now: the numbers of the same round that are known; by fewer than three it is not bounded,
            but by all numbers of recent rounds.
        """
        rounds = [np.log(numbers) for numbers in self._rounds]
        rounds.append(np.log([number for number in now if number > 0]))
        pooled = np.concatenate(rounds)
        if len(pooled) < LEAST:
            return CAP
        medians = [float(np.median(logs if len(logs) >= LEAST else pooled)) for logs in rounds]
        spread = np.abs(np.concatenate([a - m for a, m in zip(rounds, medians, strict=True)]))
        unsure = len(pooled) < WARM_UP or LEAST <= len(rounds[-1]) < FEW
        smallest = UNSURE if unsure else SMALLEST
        sigma = max(smallest, 1.4826 * float(np.median(spread)))
        return min(CAP, math.exp(min(medians[-1] + deviations * sigma, math.log(CAP))))

    def state(self) -> list[list[float]]:
        """All that is needed to go on."""
        return list(self._rounds)
