"""Reads a status again and again, copying each line of the record only once."""

from __future__ import annotations

from typing import Any

from server_app.monitoring.status import Status


class Reader:
    """One reader of a status; not to be shared by threads.

    Attributes
    ----------
    status: what is read.
    lines: all lines of the record so far; a new run clears the list in place.
    """

    def __init__(self, status: Status) -> None:
        self.status = status
        self.lines: list[dict[str, Any]] = []
        self._begins = 0

    def read(self) -> dict[str, Any]:
        """A snapshot without its lines, which are added to ``lines``."""
        seen = self.status.snapshot(skip=len(self.lines))
        if seen["begins"] != self._begins:
            self._begins = seen["begins"]
            self.lines.clear()
            seen = self.status.snapshot()
        self.lines += seen.pop("lines")
        return seen
