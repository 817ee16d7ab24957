"""What is usual for a positive number such as a norm, judged by those seen before.

limit = exp(median + 8 sigma) of the logarithms, sigma = 1.4826 times their median absolute
deviation and at least 0.3. A few senders cannot climb by sending, each time, as much as they are
let. Measured on honest runs in ``docs/gate.md``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

LEAST = 3
"""Numbers that must have been seen before they can judge any: of two, neither is an outlier."""

WARM_UP = 20
"""Numbers from which on their deviation is taken as it is."""

WINDOW = 500
"""Recent numbers that count."""

SHARE = 100
"""Numbers of one round that are kept, evenly from the smallest to the largest: a round with more
would otherwise be judged by its last ones alone."""

DEVIATIONS = 8.0
DOUBTFUL = 4.0
"""Deviations from which on a number is let pass, but remembered if the model is lost later."""

SMALLEST = 0.3
EARLY = 0.6
"""Smallest sigma, and that before ``WARM_UP``: a few numbers may lie close together by chance."""

CAP = 1e6
"""Too much for any norm or curvature, also while nothing is known."""


class Usual:
    """Limits for one kind of number.

    Attributes
    ----------
    limit: more is too much.
    doubtful: more is unusual.
    """

    def __init__(self, seen: Iterable[float] = ()) -> None:
        self._seen: deque[float] = deque(seen, maxlen=WINDOW)
        self._judge()

    def extend(self, numbers: Iterable[float]) -> None:
        """Let the numbers of a round judge those that follow; zeros have no say."""
        found = [number for number in numbers if number > 0]
        if len(found) > SHARE:
            ordered = sorted(found)
            found = [ordered[round(at)] for at in np.linspace(0, len(found) - 1, SHARE)]
        self._seen.extend(found)
        self._judge()

    def state(self) -> list[float]:
        """All that is needed to go on."""
        return list(self._seen)

    def _judge(self) -> None:
        self.limit = self.doubtful = CAP
        if len(self._seen) < LEAST:
            return
        logs = np.log(np.array(self._seen))
        middle = float(np.median(logs))
        smallest = EARLY if len(self._seen) < WARM_UP else SMALLEST
        sigma = max(smallest, 1.4826 * float(np.median(np.abs(logs - middle))))
        self.limit, self.doubtful = (
            min(CAP, math.exp(min(middle + n * sigma, math.log(CAP))))
            for n in (DEVIATIONS, DOUBTFUL)
        )
