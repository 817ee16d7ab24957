"""Which nodes are asked: those that the gate has not set aside."""

from __future__ import annotations

from collections.abc import Sequence

from server_app.clients.registry import Nodes
from server_app.monitoring.status import Status
from server_app.validation.gate import Gate


def eligible(
    round: int, client_ids: Sequence[int], nodes: Nodes, gate: Gate, status: Status
) -> list[int]:
    """Clients whose nodes are not set aside in a round; all of them if there would be none."""
    there = {
        client_id: node for client_id in client_ids if (node := nodes.at(client_id)) is not None
    }
    aside = gate.set_aside(round)
    left = [client_id for client_id, node in there.items() if node not in aside]
    for node in (set(there.values()) & aside.keys()) if left else ():
        reason = f"set aside after several bad replies; asked again in round {aside[node]}"
        status.node(node, "rejected", reason=reason)
    return left or list(there)
