"""Every reply is checked before it may touch the model.

Flower checks nothing: one NaN, a negative count or an extra key spoils or ends a run. Here a bad
reply is rejected with node, field and reason, the round goes on, and a node that offends again
and again is set aside for a while.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from flwr.app import Message

from common.errors import WireError
from common.tensors import Spec, Tensors
from common.wire import unpack

OFFENCES = 3
"""Rejections in a row after which a node is set aside."""

PAUSE = 10
"""Rounds for which it is."""

WARM_UP = 20
"""Norms that must have been seen before they can judge another."""

LARGEST = 10.0
"""Times the largest recent norm that is too much. Honest norms are heavy-tailed: increments of
duals shrink for clients that have settled and stay large for those that have not, so that a limit
from median and deviation turns honest clients away."""


class Rejected(Exception):
    """A reply may not touch the model."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass
class _Record:
    offences: int = 0
    until: int = 0


class Gate:
    """Admits replies, counts rejections, sets repeat offenders aside."""

    def __init__(self) -> None:
        self._nodes: dict[int, _Record] = {}
        self._norms: dict[str, deque[float]] = {}
        self._round_norms: dict[str, list[float]] = {}

    def excluded(self, node: int, round: int) -> bool:
        """Whether the node is set aside in this round."""
        return round < self._nodes.get(node, _Record()).until

    def admit(
        self, node: int, round: int, message: Message, contract: Any, expected: dict[str, Any]
    ) -> Any:
        """The reply as a contract, if nothing is wrong with it.

        Parameters
        ----------
        contract: class of the reply.
        expected: exact values that some fields must have; for tensors, their specs; for
            ``examples``, the largest number allowed.

        Raises
        ------
        Rejected: with the field and the reason.
        """
        try:
            up = self._check(node, message, contract, expected)
        except Rejected:
            record = self._nodes.setdefault(node, _Record())
            record.offences += 1
            if record.offences >= OFFENCES:
                record.until, record.offences = round + 1 + PAUSE, 0
            raise
        self._nodes.pop(node, None)
        return up

    def end_round(self) -> None:
        """Let the norms of this round judge the next."""
        for name, norms in self._round_norms.items():
            self._norms.setdefault(name, deque(maxlen=500)).extend(norms)
        self._round_norms.clear()

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        nodes = {str(n): [r.offences, r.until] for n, r in self._nodes.items()}
        return {"nodes": nodes, "norms": {name: list(seen) for name, seen in self._norms.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._nodes = {int(node): _Record(*record) for node, record in state["nodes"].items()}
        self._norms = {name: deque(seen, maxlen=500) for name, seen in state["norms"].items()}

    def _check(self, node: int, message: Message, contract: Any, expected: dict[str, Any]) -> Any:
        if message.metadata.src_node_id != node:
            raise Rejected("node", f"sent by {message.metadata.src_node_id}")
        try:
            up = unpack(contract, message.content)
        except WireError as error:
            name, _, reason = str(error).partition(": ")
            raise Rejected(name.rpartition(".Up.")[2], reason) from None
        for field in fields(up):
            value = getattr(up, field.name)
            if isinstance(value, Tensors):
                self._check_tensors(field.name, value, expected.get(field.name))
            elif field.name == "examples":
                if not 0 < value <= expected["examples"]:
                    raise Rejected("examples", f"{value}, enrolled with {expected['examples']}")
            elif field.name in expected and value != expected[field.name]:
                raise Rejected(field.name, f"{value!r}, expected {expected[field.name]!r}")
        return up

    def _check_tensors(self, name: str, tensors: Tensors, specs: tuple[Spec, ...] | None) -> None:
        if specs is not None and tensors.specs != specs:
            raise Rejected(name, _difference(tensors.specs, specs))
        norm = 0.0
        for vector in tensors.vectors.values():
            if vector.dtype.kind == "f":
                norm += float(np.dot(vector, vector))
        norm = math.sqrt(norm)
        if not math.isfinite(norm):
            raise Rejected(name, "holds values that are not finite")
        seen = self._norms.get(name, ())
        if len(seen) >= WARM_UP:
            limit = LARGEST * max(seen)
            if norm > limit:
                raise Rejected(name, f"norm {norm:.3g} is over {limit:.3g}, ten times any recent")
        self._round_norms.setdefault(name, []).append(norm)


def _difference(got: tuple[Spec, ...], wanted: tuple[Spec, ...]) -> str:
    for one, other in zip(got, wanted, strict=False):
        if one != other:
            return f"has {one[0][:80]} {one[2]} {one[1]}, expected {other[0]} {other[2]} {other[1]}"
    return f"has {len(got)} tensors, expected {len(wanted)}"
