"""Judge the model on the clients that never train."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from common import evaluation
from common.config import RunSettings
from common.errors import WireError
from common.wire import pack, size, unpack
from server_app.method import Method
from server_app.nodes import Nodes
from server_app.transport.ordered import collect


def judge(
    grid: Grid,
    nodes: Nodes,
    settings: RunSettings,
    method: Method,
    round: int,
    notice: Callable[[str], None],
) -> tuple[dict[str, Any] | None, int, int]:
    """Accuracy and loss on the target clients before and after adaptation.

    Returns the entry for the record, nothing if no target answered, and the bytes sent down and
    up. Means are over clients, weighted by their query images, as published; ``std_after`` is the
    unweighted spread of the clients' accuracies.
    """
    rules, targets = settings.evaluation, nodes.targets
    if not targets:
        return None, 0, 0
    down = evaluation.Down(method.model, method.buffers, rules.alpha, rules.steps, rules.statistics)
    shared: dict[int, ArrayRecord] = {}
    limit = settings.round.deadline
    contents = [pack(down, shared) for _ in targets]
    messages = [
        Message(content, node, "evaluate", ttl=limit, group_id=str(round))
        for node, content in zip(targets, contents, strict=True)
    ]
    ids = list(grid.push_messages(messages))
    up_bytes, clients = 0, []
    for node, reply in collect(
        grid, list(zip(targets, ids, strict=True)), time.monotonic() + limit
    ):
        if reply is None or reply.has_error():
            reason = reply.error.reason if reply else "no reply before the deadline"
            notice(f"round {round}: node {node} could not judge the model: {reason}")
            continue
        up_bytes += size(reply.content)
        try:
            up = unpack(evaluation.Up, reply.content)
            clients += _entries(node, up, nodes.enrolled[node].clients)
        except WireError as error:
            notice(f"round {round}: node {node} sent no valid judgement: {error}")
    return _combine(clients), sum(map(size, contents)), up_bytes


def _entries(node: int, up: evaluation.Up, enrolled: list[int]) -> list[dict[str, Any]]:
    columns = (
        up.clients, up.examples, up.correct_before, up.correct_after, up.loss_before, up.loss_after
    )  # fmt: skip
    if up.clients != enrolled or len({len(column) for column in columns}) != 1:
        raise WireError("it is not about the clients that the node plays")
    entries = []
    for client, n, before, after, loss_before, loss_after in zip(*columns, strict=True):
        if n < 1 or not 0 <= before <= n or not 0 <= after <= n:
            raise WireError(f"client {client}: {before} and {after} right of {n}")
        entries.append(
            {
                "node": str(node), "client": str(client), "examples": n,
                "accuracy_before": before / n, "accuracy_after": after / n,
                "loss_before": loss_before, "loss_after": loss_after,
            }
        )  # fmt: skip
    return entries


def _combine(clients: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not clients:
        return None
    weights = np.array([entry["examples"] for entry in clients], float)
    means = {
        key: float(np.average([entry[key] for entry in clients], weights=weights))
        for key in ("accuracy_before", "accuracy_after", "loss_before", "loss_after")
    }
    spread = float(np.std([entry["accuracy_after"] for entry in clients]))
    return {**means, "std_after": spread, "examples": int(weights.sum()), "clients": clients}
