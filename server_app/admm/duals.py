"""Y = sum_i y_i of consensus ADMM, with one vector at the server, however many clients there are.

What comes up is y_i^t - y_i^{base}. A reply that is lost leaves no trace: the server tells each
client which of its replies entered Y, and the next increment starts there. If a client no longer
has that dual, Y cannot be mended, and all duals start again from zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.sketch import NUMBERS, agree, sketch
from common.tensors import Tensors
from server_app.admm.measure import NUMBERS as MEASURED
from server_app.admm.measure import Measure
from server_app.aggregation.clipping import clipped_mean
from server_app.saved import Saved
from server_app.validation.errors import Rejected

BELIEVED = 10
"""Rounds before a client that had lost its dual is believed to have lost it again: each time, all
duals start from zero."""


BRIEF = ("entered", "sketches", "measures", "lost")
"""What must be known of a client wherever its replies are looked at."""


class Duals:
    """Sum of the duals, and which reply of each client is in it.

    Attributes
    ----------
    total: Y, shape (d,).
    entered: client -> round of its last reply that is in Y.
    sketches: client -> sketch of its dual that is in Y.
    measures: client -> the same dual by secret signs (``server_app/admm/measure.py``).
    lost: client -> round in which it had last lost its dual.
    each: client -> its dual, where duals are kept apart; empty where they are not.
    """

    total: Saved[NDArray[np.float64]]
    entered: Saved[dict[int, int]]
    sketches: Saved[dict[int, list[float]]]
    measures: Saved[dict[int, list[float]]]
    lost: Saved[dict[int, int]]
    each: Saved[dict[int, NDArray[np.float32]]]

    def __init__(self, size: int, secret: bytes = b"") -> None:
        self.total = np.zeros(size, np.float64)
        self.entered, self.sketches, self.measures, self.lost = {}, {}, {}, {}
        self.each = {}
        self._measure = Measure(secret, size)
        # Measures of replies that may yet be rejected, by client and sketch of the dual.
        self._looked_at: dict[tuple[float, ...], list[float]] = {}

    def known(self, client: int) -> dict[str, Any]:
        """What a client is told of its dual that is in Y."""
        return {"acknowledged": self.entered.get(client, 0), "dual": self._sketch(client).tolist()}

    def continues(self, client: int, up: Any) -> bool:
        """Whether an increment starts from the dual that is in Y."""
        return bool(up.base == self.entered.get(client, 0))

    def size(self, client: int, up: Any, norm: float) -> float:
        """Norm of the dual that a reply leads to, as estimated.

        At least half of the increment's norm, which no honest client exceeds. Increments
        themselves have no usual size: they vanish for a client that has settled.

        Raises
        ------
        Rejected: the increment does not start where Y is, or the dual is not what it leads to.
        """
        known = self.entered.get(client, 0)
        if up.base not in (known, 0):
            raise Rejected("base", f"starts from round {up.base}, acknowledged is {known}")
        last = self.lost.get(client, -BELIEVED)
        if known and not up.base and up.round - last < BELIEVED:
            raise Rejected("base", f"lost its dual after it had lost it in round {last}")
        if not math.isfinite(norm):
            return norm
        start = self._sketch(client) if up.base else np.zeros(NUMBERS)
        dual = start + sketch(up.increment.vector)
        if not agree(up.dual, dual, norm):
            raise Rejected("dual", "is not what the server has in its sum plus the increment")
        # Not by the sketch, whose signs are public: a drift can be made that it does not see.
        measured = self._measure(up.increment.vector)
        if up.base:
            measured = np.array(self.measures.get(client, [0.0] * MEASURED)) + measured
        self._looked_at[client, *up.dual] = measured.tolist()
        return max(norm / 2, float(np.linalg.norm(measured)))

    def brief(self, clients: Sequence[int]) -> dict[str, Any]:
        """What ``continues`` and ``size`` need to know of these clients."""
        return {
            name: {c: known[c] for c in clients if c in known}
            for name, known in ((name, getattr(self, name)) for name in BRIEF)
        }

    def take_brief(self, notes: Mapping[str, Any]) -> None:
        """Know of clients what ``brief`` gave."""
        for name in BRIEF:
            setattr(self, name, {int(client): value for client, value in notes[name].items()})
        self._looked_at.clear()

    def finding(self, client: int, up: Any) -> list[float]:
        """Measure of a reply that ``size`` has seen."""
        return self._looked_at[client, *up.dual]

    def take_finding(self, client: int, up: Any, found: Sequence[float]) -> None:
        """``size`` has seen a reply elsewhere, with this measure, by that machine's signs.

        Raises
        ------
        Rejected: it is none.
        """
        if len(found) != MEASURED or not np.isfinite(found).all():
            raise Rejected("dual", f"has a measure of {len(found)} numbers, or not finite")
        self._looked_at[client, *up.dual] = list(found)

    def add(self, increments: NDArray[np.floating[Any]], ups: dict[int, Any]) -> None:
        """Y + sum_i Delta_i, and note whose replies these were."""
        self.entered = self.entered | {client: up.round for client, up in ups.items()}
        self.sketches = self.sketches | {client: up.dual for client, up in ups.items()}
        measured = {client: self._looked_at[client, *up.dual] for client, up in ups.items()}
        self.measures = self.measures | measured
        self._looked_at.clear()
        self.total = self.total + increments

    def keep(
        self, increments: Mapping[int, Tensors], share: Callable[[int], float]
    ) -> NDArray[np.float64]:
        """Take increments into the duals that are kept apart; the change of Y that comes of it.

        Y is then not the sum of the duals but what that is if no gradient y_i / w_i is far from the
        others (``server_app/aggregation/clipping.py``). Only duals may be judged so: what is cut of
        an increment would be missing in Y for good.

        Parameters
        ----------
        increments: client -> y_i^t - y_i^{base} of those that count.
        share: w_i.
        """
        kept = {
            c: self.each[c] + x.vector if c in self.each else x.vector
            for c, x in increments.items()
        }
        self.each = dict(sorted((self.each | kept).items()))
        return self._clipped(share) - self.total

    def drop(self, clients: Iterable[int], share: Callable[[int], float]) -> None:
        """Clients that have left take their duals with them, where these are kept apart."""
        for name in ("each", "entered", "sketches", "measures"):
            kept = getattr(self, name)
            setattr(self, name, {c: value for c, value in kept.items() if c not in set(clients)})
        self.total = self._clipped(share)

    def _clipped(self, share: Callable[[int], float]) -> NDArray[np.float64]:
        if not self.each:
            return np.zeros_like(self.total)
        weights = np.array([share(client) for client in self.each])
        gradients = np.stack(
            [y / np.float32(w) for y, w in zip(self.each.values(), weights, strict=True)]
        )
        return clipped_mean(gradients, weights) * weights.sum()

    def restart(self, round: int = 0, lost: Iterable[int] = ()) -> None:
        """All duals are zero again; these clients had lost theirs."""
        self.lost = self.lost | dict.fromkeys(lost, round)
        self.entered, self.sketches, self.measures, self.each = {}, {}, {}, {}
        self.total = np.zeros_like(self.total)

    def _sketch(self, client: int) -> NDArray[np.float64]:
        return np.array(self.sketches.get(client, [0.0] * NUMBERS))
