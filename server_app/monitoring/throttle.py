"""How often something costly may be done beside what matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throttle:
    """Lets something be done so often that it takes at most a share of the time."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Let it take at most ``share`` of the time, a number below 1."""
        self._rest = 1 / share - 1
        self._clock = clock
        self._next = float("-inf")

    @property
    def due(self) -> bool:
        """Whether it may be done now."""
        return self._clock() >= self._next

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around doing it: how long that takes decides when it is due again."""
        begun = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            self._next = now + self._rest * (now - begun)
