"""Judge the model on the clients that never train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common import evaluation
from common.config import RunSettings
from common.errors import WireError
from common.wire import size, unpack
from server_app.exchange import Exchange
from server_app.method import Method
from server_app.nodes import Nodes


def judge(
    exchange: Exchange, nodes: Nodes, settings: RunSettings, method: Method, round: int
) -> dict[str, Any]:
    """Accuracy and loss on the target clients before and after adaptation.

    Returns what the record of the round has on it: ``evaluation``, nothing if no target answered,
    ``evaluation_missing``, and the array bytes sent down and up.
    """
    nodes.discover()
    rules = settings.evaluation
    down = evaluation.Down(method.model, method.buffers, rules.alpha, rules.steps, rules.statistics)
    asked, missing = exchange.free(nodes.targets)
    up_bytes, clients = 0, []
    for answer in exchange.ask(round, "evaluate", asked, lambda _: down):
        reason = answer.reason
        if answer.reply is not None:
            up_bytes += size(answer.reply.content)
            try:
                up = unpack(evaluation.Up, answer.reply.content)
                clients += entries(answer.node, up, nodes.enrolled[answer.node].clients)
            except WireError as error:
                reason = f"no valid judgement: {error}"
        if reason:
            missing.append({"node": str(answer.node), "reason": reason})
    return {
        "evaluation": combine(clients),
        "evaluation_missing": missing,
        "bytes_down": exchange.bytes_down,
        "bytes_up": up_bytes,
    }


def entries(node: int, up: evaluation.Up, enrolled: Sequence[int]) -> list[dict[str, Any]]:
    """One entry for each client that a node has judged the model for.

    Raises
    ------
    WireError: the counts contradict each other, or it is about other clients than ``enrolled``.
    """
    columns = (
        up.clients, up.examples, up.correct_before, up.correct_after, up.loss_before, up.loss_after
    )  # fmt: skip
    if up.clients != enrolled or len({len(column) for column in columns}) != 1:
        raise WireError("it is not about the clients that the node plays")
    found = []
    for client, n, before, after, loss_before, loss_after in zip(*columns, strict=True):
        if n < 1 or not 0 <= before <= n or not 0 <= after <= n:
            raise WireError(f"client {client}: {before} and {after} right of {n}")
        found.append(
            {
                "node": str(node), "client": str(client), "examples": n,
                "accuracy_before": before / n, "accuracy_after": after / n,
                "loss_before": loss_before, "loss_after": loss_after,
            }
        )  # fmt: skip
    return found


def combine(clients: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """An entry for the record about all clients; nothing if there is none.

    Means are over clients, weighted by their query images, as published; ``std_after`` is the
    unweighted spread of the clients' accuracies.
    """
    if not clients:
        return None
    weights = np.array([entry["examples"] for entry in clients], float)
    means = {
        key: float(np.average([entry[key] for entry in clients], weights=weights))
        for key in ("accuracy_before", "accuracy_after", "loss_before", "loss_after")
    }
    spread = float(np.std([entry["accuracy_after"] for entry in clients]))
    return {**means, "std_after": spread, "examples": int(weights.sum()), "clients": [*clients]}
