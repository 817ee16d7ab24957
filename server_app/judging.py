"""Judge the model on the clients that never train."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Message

from common import enrolment, evaluation
from common.config import DataSettings, RunSettings
from common.wire import size
from server_app.able import able
from server_app.admission import MORE, Gate, Sizes
from server_app.exchange import Answer, Exchange
from server_app.method import Method
from server_app.nodes import Nodes
from server_app.rejection import Rejected
from server_app.replies import Asked, check, read
from server_app.status import Status
from server_app.usual import CAP
from server_app.weights import counted


def judge(
    exchange: Exchange,
    nodes: Nodes,
    gate: Gate,
    settings: RunSettings,
    method: Method,
    round: int,
    status: Status,
) -> dict[str, Any]:
    """Accuracy and loss on the target clients before and after adaptation.

    Returns what the record of the round has on it: ``evaluation``, nothing if no target answered,
    ``evaluation_missing``, ``rejected``, and the array bytes sent down and up.
    """
    nodes.discover()
    rules = settings.evaluation
    assert method.model is not None
    down = evaluation.Down(method.model, method.buffers, rules.alpha, rules.steps, rules.statistics)
    free, missing = exchange.free(nodes.targets)
    asked = able(round, free, nodes, gate, status)
    up_bytes, clients, rejected = 0, [], []

    def examine(answer: Answer) -> tuple[list[dict[str, Any]], Sizes]:
        sent = Asked(answer.node, answer.message_id, exchange.run_id, "evaluate")
        up = read(evaluation.Up, check(answer.reply, sent).content)
        return entries(answer.node, up, nodes.enrolled[answer.node]), {}

    for answer in exchange.ask(round, "evaluate", asked, lambda _: down):
        if isinstance(answer.reply, Message):
            up_bytes += size(answer.reply.content)
        if answer.reply is None:
            missing.append({"node": str(answer.node), "reason": answer.reason})
            continue
        try:
            clients += gate.admit(round, answer.node, partial(examine, answer))
        except Rejected as refusal:
            status.node(answer.node, "rejected", reason=str(refusal))
            rejected.append(refusal.entry(answer.node, "evaluation"))
    return {
        "evaluation": combine(clients, settings.data, nodes),
        "evaluation_missing": missing,
        "rejected": rejected,
        "bytes_down": exchange.bytes_down,
        "bytes_up": up_bytes,
    }


def entries(node: int, up: evaluation.Up, enrolled: enrolment.Up) -> list[dict[str, Any]]:
    """One entry for each client that a node has judged the model for.

    Raises
    ------
    Rejected: it is about other clients or images than those enrolled, or no judgement could be so.
    """
    if up.clients != enrolled.clients:
        raise Rejected("clients", f"are {str(up.clients)[:80]}, enrolled {enrolled.clients}")
    for name in ("examples", "correct_before", "correct_after", "loss_before", "loss_after"):
        if len(column := getattr(up, name)) != len(up.clients):
            raise Rejected(name, f"{len(column)} entries for {len(up.clients)} clients")
    images = sum(up.examples)
    own = up.clients == [-1]  # a device's own images may become fewer during a run
    possible = images <= enrolled.query if own else images == enrolled.query
    if min(up.examples) < 1 or not possible:
        advice = MORE if own and images > enrolled.query else ""
        raise Rejected("examples", f"{images}, enrolled with {enrolled.query}{advice}")
    for name in ("correct_before", "correct_after"):
        for right, n in zip(getattr(up, name), up.examples, strict=True):
            if not 0 <= right <= n:
                raise Rejected(name, f"{right} right of {n}")
    for name in ("loss_before", "loss_after"):
        if not 0 <= min(getattr(up, name)) <= max(getattr(up, name)) <= CAP:
            raise Rejected(name, f"is {min(getattr(up, name)):g} to {max(getattr(up, name)):g}")
    return [
        {
            "node": str(node), "client": str(client), "examples": n,
            "accuracy_before": before / n, "accuracy_after": after / n,
            "loss_before": loss_before, "loss_after": loss_after,
        }
        for client, n, before, after, loss_before, loss_after in zip(
            up.clients, up.examples, up.correct_before, up.correct_after,
            up.loss_before, up.loss_after, strict=True,
        )
    ]  # fmt: skip


def combine(
    clients: Sequence[dict[str, Any]], data: DataSettings, nodes: Nodes
) -> dict[str, Any] | None:
    """An entry for the record about all clients; nothing if there is none.

    Means are over images, as published: a client counts for its query images, within
    ``data.weight-limit``. ``over_clients`` has those in which all clients count the same, and
    ``std_after`` is the unweighted spread of the clients' accuracies.
    """
    if not clients:
        return None
    images = dict(enumerate(int(entry["examples"]) for entry in clients))
    vouched = {n for n, entry in enumerate(clients) if nodes.vouched(int(entry["node"]))}
    weights = np.array([*counted(images, data, vouched).values()], float)
    columns = {
        key: np.array([entry[key] for entry in clients])
        for key in ("accuracy_before", "accuracy_after", "loss_before", "loss_after")
    }
    return {
        **{key: float(np.average(column, weights=weights)) for key, column in columns.items()},
        "over_clients": {key: float(column.mean()) for key, column in columns.items()},
        "std_after": float(np.std(columns["accuracy_after"])),
        "examples": sum(images.values()),
        "clients": [*clients],
    }
