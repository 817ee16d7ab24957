"""Every reply is checked before it may touch the model.

Flower checks nothing: one NaN, a negative count or an extra key spoils or ends a run. Here a bad
reply is rejected with node, field and reason, the round goes on, and a node that offends again
and again is set aside for a while. ``docs/gate.md`` lists the checks and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, TypeVar

from common.tensors import Spec, Tensors
from server_app.rejection import Rejected
from server_app.usual import CAP, Usual

OFFENCES = 3
"""Rejections in a row after which a node is set aside; after a pause, one is enough."""

PAUSE = 10
"""Rounds for which it is."""

RANGES = {
    "loss": (0.0, CAP),
    "own_loss": (0.0, CAP),
    "distillation_loss": (-1e-3, CAP),
    "curvature": (0.0, CAP),
    "teachers": (0, 1000),
    "left_out": (0, 1000),
}
"""Numbers by which nothing is multiplied, but which a person reads, or rho rises with."""

MORE = (
    "; if these are its own images, it has lost the list of those that it began the run with: give "
    "it a state-folder before the next run"
)
"""Added to a rejection: what to do where a device comes with more images than it had."""

Sizes = dict[str, float]
Seen = TypeVar("Seen")


@dataclass
class _Record:
    row: int = 0  # rejections in a row
    until: int = 0  # first round in which the node is asked again
    rejected: int = 0  # rejections in all


class Gate:
    """Admits replies, counts rejections, sets repeat offenders aside."""

    def __init__(self) -> None:
        self._nodes: dict[int, _Record] = {}
        self._usual: dict[str, Usual] = {}
        self._sizes: dict[str, list[float]] = {}

    @property
    def rejections(self) -> dict[int, int]:
        """Node -> replies rejected so far; nodes without any are not listed."""
        return {node: record.rejected for node, record in self._nodes.items()}

    def set_aside(self, round: int) -> dict[int, int]:
        """Node that is set aside in this round -> the round in which it is asked again."""
        return {n: record.until for n, record in self._nodes.items() if round < record.until}

    def admit(self, round: int, node: int, examine: Callable[[], tuple[Seen, Sizes]]) -> Seen:
        """What a look at a reply has seen, if nothing is wrong with it.

        Parameters
        ----------
        examine: all other checks; gives what it has seen, and sizes to compare with what is usual.

        Raises
        ------
        Rejected: with the field and the reason.
        """
        try:
            seen, sizes = examine()
            for name, size in sizes.items():
                self._check_size(name, size)
        except Rejected:
            self.reject(round, node)
            raise
        for name, size in sizes.items():
            self._sizes.setdefault(name, []).append(size)
        if node in self._nodes:
            self._nodes[node].row = 0
        return seen

    def reject(self, round: int, node: int) -> None:
        """Count an offence of a node."""
        record = self._nodes.setdefault(node, _Record())
        record.row += 1
        record.rejected += 1
        if record.row >= OFFENCES:
            record.until, record.row = round + 1 + PAUSE, OFFENCES - 1

    def end_round(self) -> None:
        """Let the sizes of this round judge the next."""
        for name, sizes in self._sizes.items():
            self._usual.setdefault(name, Usual()).extend(sizes)
        self._sizes.clear()

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        nodes = {str(node): astuple(record) for node, record in self._nodes.items()}
        return {"nodes": nodes, "usual": {n: usual.state() for n, usual in self._usual.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._nodes = {int(node): _Record(*record) for node, record in state["nodes"].items()}
        self._usual = {name: Usual(seen) for name, seen in state["usual"].items()}

    def _check_size(self, name: str, size: float) -> None:
        if not math.isfinite(size):
            raise Rejected(name, "holds values that are not finite")
        limit = self._usual[name].limit if name in self._usual else CAP
        if size > limit:
            raise Rejected(name, f"size {size:.3g}; by what is usual here, {limit:.3g} is too much")


def check_fields(up: Any, expected: Mapping[str, Any]) -> None:
    """Check the fields of a reply that every method has the same way.

    Parameters
    ----------
    expected: exact values that some fields must have; for tensors, their specs; for ``examples``,
        the number enrolled.

    Raises
    ------
    Rejected: with the field and the reason.
    """
    for field in fields(up):
        name, value = field.name, getattr(up, field.name)
        if isinstance(value, Tensors):
            if value.specs != expected[name]:
                raise Rejected(name, _difference(value.specs, expected[name]))
        elif name == "examples":
            if not 0 < value <= expected[name]:
                advice = MORE if value > expected[name] else ""
                raise Rejected(name, f"{value}, enrolled with {expected[name]}{advice}")
        elif name in RANGES:
            low, high = RANGES[name]
            if not low <= value <= high:
                raise Rejected(name, f"is {value:g}; {low:g} to {high:g} are possible")
        elif name in expected and value != expected[name]:
            raise Rejected(name, f"is {value!r}, expected {expected[name]!r}")


def _difference(got: tuple[Spec, ...], wanted: tuple[Spec, ...]) -> str:
    for one, other in zip(got, wanted, strict=False):
        if one != other:
            return f"has {one[0][:80]} {one[2]} {one[1]}, expected {other[0]} {other[2]} {other[1]}"
    return f"has {len(got)} tensors, expected {len(wanted)}"
