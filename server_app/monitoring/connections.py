"""What a connection to the live page may hold: so much time, and a place among so many.

uvicorn alone waits for ever for the rest of a request, and answers 503 to everybody, health checks
too, while too many connections are open. Here an old one goes when a new one needs its place.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

REQUEST, ANSWER = 10.0, 60.0
"""Seconds in which a request must have come, from its first byte or the connection's beginning, and
in which its answer must have been taken."""

MOST, MOST_OF_ADDRESS = 64, 16
"""Connections in all, and from one address."""


class BoundedProtocol(H11Protocol):
    """One connection; closed when its time is up or its place is needed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, in the place of the oldest connection if there are too many."""
        super().connection_made(transport)
        self.begun = self.loop.time()
        self._timed: RequestResponseCycle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._start(REQUEST)
        there = [
            each
            for each in self.connections
            if isinstance(each, BoundedProtocol) and not each.transport.is_closing()
        ]
        same = [each for each in there if each.address == self.address]
        if len(same) > MOST_OF_ADDRESS:
            _oldest(same).transport.abort()
        elif len(there) > MOST:
            _oldest(there).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request; its last one ends the wait for it."""
        if self._timer is None:
            self._start(REQUEST)
        super().data_received(data)
        whole = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)
        if self.busy and whole and self._timed is not self.cycle:
            self._timed = self.cycle
            self._start(ANSWER)

    def on_response_complete(self) -> None:
        """Wait for the next request, whose time is uvicorn's ``timeout_keep_alive``."""
        self._stop()
        super().on_response_complete()
        if self.busy:  # the next request was there already
            self._start(ANSWER)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop()
        super().connection_lost(exc)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def address(self) -> str:
        """Of the other side; empty where there is none."""
        return self.client[0] if self.client else ""

    def _start(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _oldest(connections: list[BoundedProtocol]) -> BoundedProtocol:
    """The one that can be spared: those that wait before those that are being answered."""
    return min(connections, key=lambda each: (each.busy, each.begun))
