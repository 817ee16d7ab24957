"""The weights w_i of AugFL: shares of all images, or equal ones, of the clients that take part."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from server_app.saved import Saved


class Shares:
    """w_i of each client that has not left; of one that has, as if it alone were back.

    Attributes
    ----------
    gone: clients that have left.
    told: client -> w_i, where another machine has added up the examples of all.
    """

    gone: Saved[list[int]]

    def __init__(self, equal: bool) -> None:
        self._equal = equal
        self._examples: dict[int, int] = {}
        self._total = 0
        self.gone = []
        self.told: dict[int, float] = {}
        self._summed: tuple[list[int], frozenset[int], int] = ([], frozenset(), 0)

    def __call__(self, client: int) -> float:
        """w_i; they add up to 1 over the clients that have not left."""
        if client in self.told:
            return self.told[client]
        gone, examples = self._left()
        own, back = self._examples[client], client in gone  # if it replies, it is back
        if self._equal:
            return 1 / (len(self._examples) - len(gone) + back)
        return own / (self._total - examples + own * back)

    def present(self, clients: Iterable[int]) -> list[int]:
        """Those of some clients that have not left."""
        return [client for client in clients if client in self]

    def stale(self, clients: Container[int]) -> float:
        """Sum of w_i of those of some clients that have left."""
        return sum(self(client) for client in self.gone if client in clients)

    def enrol(self, client: int, examples: int) -> None:
        """A client has introduced itself, or has done so again."""
        self._total += examples - self._examples.get(client, 0)
        self._examples[client] = examples
        self.welcome([client])

    def leave(self, clients: Iterable[int]) -> None:
        """Clients are gone for long."""
        self.gone = sorted({*self.gone, *clients})

    def welcome(self, clients: Iterable[int]) -> None:
        """Clients are there."""
        if back := self._left()[0].intersection(clients):
            self.gone = sorted({*self.gone} - back)

    def brief(self, clients: Sequence[int]) -> dict[str, Any]:
        """w_i of these clients."""
        return {str(client): self(client) for client in clients}

    def take_brief(self, notes: Mapping[str, Any]) -> None:
        """Another machine has added up the examples of all."""
        self.told = {int(client): share for client, share in notes.items()}

    def finding(self, client: int, up: Any) -> list[float]:
        """Nothing: weights do not depend on replies."""
        return []

    def take_finding(self, client: int, up: Any, found: Sequence[float]) -> None:
        """Nothing was looked for."""

    def __contains__(self, client: int) -> bool:
        return client in self._examples and client not in self._left()[0]

    def _left(self) -> tuple[frozenset[int], int]:
        """Those that have left and their examples, added up when there are others than before."""
        if self._summed[0] is not self.gone:
            examples = sum(map(self._examples.__getitem__, self.gone))
            self._summed = (self.gone, frozenset(self.gone), examples)
        return self._summed[1:]
