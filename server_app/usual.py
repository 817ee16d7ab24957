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

WARM_UP = 20
"""Numbers that must have been seen before they can judge another."""

WINDOW = 500
"""Recent numbers that count."""

DEVIATIONS = 8.0
SMALLEST = 0.3
CAP = 1e6
"""Too much for any norm or curvature, also while nothing is known."""


class Usual:
    """Limit for one kind of number."""

    def __init__(self, seen: Iterable[float] = ()) -> None:
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self.limit = CAP
        self.extend(seen)

    def extend(self, numbers: Iterable[float]) -> None:
        """Let numbers judge those that follow; zeros have no say."""
        self._seen.extend(number for number in numbers if number > 0)
        if len(self._seen) >= WARM_UP:
            logs = np.log(np.array(self._seen))
            middle = float(np.median(logs))
            sigma = max(SMALLEST, 1.4826 * float(np.median(np.abs(logs - middle))))
            self.limit = min(CAP, math.exp(middle + DEVIATIONS * sigma))

    def state(self) -> list[float]:
        """All that is needed to go on."""
        return list(self._seen)
