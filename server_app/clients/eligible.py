"""Which nodes are asked: those that the gate has not set aside."""

from __future__ import annotations

from collections.abc import Sequence

from server_app.clients.registry import Nodes
from server_app.monitoring.status import Status
from server_app.validation.gate import Gate


def able(round: int, seats: Sequence[int], nodes: Nodes, gate: Gate, status: Status) -> list[int]:
    """Seats whose nodes are not set aside in a round; all of them if there would be none."""
    sitting = {seat: node for seat in seats if (node := nodes.at(seat)) is not None}
    aside = gate.set_aside(round)
    left = [seat for seat, node in sitting.items() if node not in aside]
    for node in (set(sitting.values()) & aside.keys()) if left else ():
        reason = f"set aside after several bad replies; asked again in round {aside[node]}"
        status.node(node, "rejected", reason=reason)
    return left or list(sitting)
