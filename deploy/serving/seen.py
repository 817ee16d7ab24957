"""What a model was asked about, hour by hour, and whether that still is what it was made for.

Nothing of an image is kept: numbers of answers by class, and by how sure they were.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import OWN, write_atomic

BINS = 10  # of confidence, from 0 to 1
HOURS = 24 * 90  # that are kept
LEAST = 100  # answers before they are compared
ALARM = 0.25
"""Population stability index above which a shift is called significant (Siddiqi 2006, ch. 6)."""
_SAVE_EVERY = 60.0  # seconds; an SD card wears out


class Seen:
    """Counts, kept in a file; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._saved = path, threading.Lock(), time.monotonic()
        self._dirty = False
        self._expected: dict[str, Any] | None = None
        self._hours: list[dict[str, Any]] = []
        try:
            self._hours = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._hours = []

    def add(self, classes: Sequence[str], probabilities: NDArray[np.float32]) -> None:
        """Count answers, shape (n, classes)."""
        new, hour = _counted(classes, probabilities), int(time.time()) // 3600
        with self._lock:
            if not self._hours or self._hours[-1]["hour"] != hour:
                self._hours = [*self._hours, {"hour": hour, "classes": {}, "sure": [0] * BINS}]
                del self._hours[:-HOURS]
            _add(self._hours[-1], new)
            self._dirty = True

    def expect(self, classes: Sequence[str], probabilities: NDArray[np.float32]) -> None:
        """Set what answers are compared with: those about images like the ones trained on."""
        with self._lock:
            self._expected = _counted(classes, probabilities)

    def last(self, hours: int = 24) -> dict[str, Any]:
        """Answers of the last hours: ``classes``, name -> number, and ``sure``, by confidence."""
        total: dict[str, Any] = {"classes": {}, "sure": [0] * BINS}
        since = int(time.time()) // 3600 - hours
        with self._lock:
            for hour in self._hours:
                if hour["hour"] > since:
                    _add(total, hour)
        return total

    def shift(self) -> dict[str, float] | None:
        """Population stability index of the last day's classes and confidences.

        What two samples of one population differ by, (bins - 1) (1/n + 1/m) in the mean, is taken
        off. None before there is enough to compare.
        """
        now, expected = self.last(), self._expected
        if expected is None or sum(now["sure"]) < LEAST:
            return None
        names = sorted({*now["classes"], *expected["classes"]})
        classes = ([c["classes"].get(name, 0) for name in names] for c in (now, expected))
        return {"classes": _index(*classes), "confidence": _index(now["sure"], expected["sure"])}

    def save(self) -> None:
        """Write the counts, if there are new ones."""
        with self._lock:
            content, dirty = json.dumps(self._hours), self._dirty
            self._dirty, self._saved = False, time.monotonic()
        if dirty:
            write_atomic(self._path, content, OWN)

    def save_now_and_then(self) -> None:
        """The same, once a minute."""
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()


def _counted(classes: Sequence[str], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    labels = np.bincount(probabilities.argmax(1), minlength=len(classes))
    sure = np.histogram(probabilities.max(1), BINS, (0, 1))[0]
    return {
        "classes": {name: int(n) for name, n in zip(classes, labels, strict=True) if n},
        "sure": [int(n) for n in sure],
    }


def _add(total: dict[str, Any], more: dict[str, Any]) -> None:
    for name, number in more["classes"].items():
        total["classes"][name] = total["classes"].get(name, 0) + number
    total["sure"] = [a + b for a, b in zip(total["sure"], more["sure"], strict=True)]


def _index(now: Sequence[int], then: Sequence[int]) -> float:
    n, m, bins = sum(now), sum(then), len(now)
    found = 0.0
    for a, b in zip(now, then, strict=True):
        p, q = (a + 0.5) / (n + bins / 2), (b + 0.5) / (m + bins / 2)
        found += (p - q) * math.log(p / q)
    return max(0.0, found - (bins - 1) * (1 / n + 1 / m))
