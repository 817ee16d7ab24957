"""Who has left for good, as far as a server can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

GONE = 10
"""Rounds in a row without a reply after which a client is believed to have left."""


class Absence:
    """Counts rounds without a word of a client; those in which it was not drawn do not count."""

    def __init__(self) -> None:
        self._silent: dict[int, int] = {}

    def note(self, silent: Iterable[int], replied: Iterable[int]) -> list[int]:
        """A round is over; gives the clients that are believed to have left in it.

        Parameters
        ----------
        silent: clients that could not be asked, or did not answer.
        """
        for client_id in replied:
            self._silent.pop(client_id, None)
        left = []
        for client_id in silent:
            self._silent[client_id] = self._silent.get(client_id, 0) + 1
            if self._silent[client_id] == GONE:
                left.append(client_id)
        return left

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {str(client_id): rounds for client_id, rounds in self._silent.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._silent = {int(client_id): rounds for client_id, rounds in state.items()}
