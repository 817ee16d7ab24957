"""Evaluation by clients that never train, by those that do, or by both, on their own images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Message

from common import enrolment, evaluation
from common.config import DataSettings, RunSettings
from common.wire import size
from server_app.clients.eligible import eligible
from server_app.clients.messaging import Answer, Exchange
from server_app.clients.registry import Nodes
from server_app.clients.weights import counted
from server_app.method import Method
from server_app.monitoring.status import Status
from server_app.rounds.introduced import source
from server_app.runs.record import by_node
from server_app.validation.errors import Rejected
from server_app.validation.gate import MORE, Gate, Sizes
from server_app.validation.message import Asked, check, read
from server_app.validation.outliers import CAP


def evaluate(
    exchange: Exchange,
    nodes: Nodes,
    gate: Gate,
    settings: RunSettings,
    method: Method,
    round: int,
    status: Status,
) -> dict[str, Any]:
    """Accuracy and loss before and after adaptation, or of personal models.

    Returns what the record of the round has on it: ``evaluation`` by targets and, where sources
    evaluate too, ``evaluation_sources``, each nothing if nobody answered, ``evaluation_missing``,
    ``rejected``, and the array bytes sent down and up.
    """
    nodes.discover()
    who = settings.evaluation.who
    kind, content = _request(method, settings, round, nodes)
    client_ids = [
        client_id
        for role, there in (("targets", nodes.targets), ("sources", nodes.sources))
        for client_id in there
        if who in (role, "both")
    ]
    free, missing = exchange.free(client_ids)
    asked = eligible(round, free, nodes, gate, status)
    up_bytes, rejected = 0, []
    found: dict[int, tuple[str, list[dict[str, Any]]]] = {}

    def examine(answer: Answer) -> tuple[list[dict[str, Any]], Sizes]:
        sent = Asked(answer.node, answer.message_id, exchange.run_id, kind)
        up = read(evaluation.Up, check(answer.reply, sent).content)
        return entries(answer.node, up, nodes.enrolled[answer.node]), {}

    for answer in exchange.ask(round, kind, asked, content):
        if isinstance(answer.reply, Message):
            up_bytes += size(answer.reply.content)
        if answer.reply is None:
            missing.append({"node": str(answer.node), "reason": answer.reason})
            continue
        try:
            seen = gate.admit(round, answer.node, partial(examine, answer))
            found[answer.client_id] = nodes.enrolled[answer.node].role, seen
        except Rejected as refusal:
            status.node(answer.node, "rejected", reason=str(refusal))
            rejected.append(refusal.entry(answer.node, "evaluation"))
    clients: dict[str, list[dict[str, Any]]] = {"target": [], "source": []}
    for _, (role, seen) in sorted(found.items()):
        clients[role] += seen
    return {
        "evaluation": combine(clients["target"], settings.data, nodes),
        **(
            {"evaluation_sources": combine(clients["source"], settings.data, nodes)}
            if who != "targets"
            else {}
        ),
        "evaluation_missing": by_node(missing),
        "rejected": by_node(rejected),
        "bytes_down": exchange.bytes_down,
        "bytes_up": up_bytes,
    }


def _request(
    method: Method, settings: RunSettings, round: int, nodes: Nodes
) -> tuple[str, Callable[[int], Any]]:
    """Type of the message, and what each client is sent."""
    if method.personal:
        return f"evaluate.{settings.method}", lambda client_id: method.broadcast(round, client_id)
    rules = settings.evaluation

    def down(client_id: int) -> evaluation.Down:
        node = nodes.at(client_id)
        assert node is not None
        told = nodes.enrolled[node]
        model, buffers, width = method.served(client_id, source(told.support, told))
        assert model is not None
        return evaluation.Down(model, buffers, rules.alpha, rules.steps, rules.statistics, width)

    return "evaluate", down


def entries(node: int, up: evaluation.Up, enrolled: enrolment.Up) -> list[dict[str, Any]]:
    """One entry for each client that a node has evaluated the model for.

    Raises
    ------
    Rejected: it is about other clients or images than those enrolled, or no evaluation could be so.
    """
    if up.clients != enrolled.clients:
        raise Rejected("clients", f"are {str(up.clients)[:80]}, enrolled {enrolled.clients}")
    right = ("correct_before", "correct_after", "commonest")
    for name in ("examples", *right, "loss_before", "loss_after"):
        if len(column := getattr(up, name)) != len(up.clients):
            raise Rejected(name, f"{len(column)} entries for {len(up.clients)} clients")
    images = sum(up.examples)
    own = up.clients == [-1]  # a device's own images may become fewer during a run
    there = enrolled.test or enrolled.query
    possible = images <= there if own else images == there
    if min(up.examples) < 1 or not possible:
        advice = MORE if own and images > there else ""
        raise Rejected("examples", f"{images}, enrolled with {there}{advice}")
    for name in right:
        for count, n in zip(getattr(up, name), up.examples, strict=True):
            if not 0 <= count <= n:
                raise Rejected(name, f"{count} right of {n}")
    for name in ("loss_before", "loss_after"):
        if not 0 <= min(getattr(up, name)) <= max(getattr(up, name)) <= CAP:
            raise Rejected(name, f"is {min(getattr(up, name)):g} to {max(getattr(up, name)):g}")
    return [
        {
            "node": str(node), "client": str(client), "examples": n,
            "accuracy_before": before / n, "accuracy_after": after / n,
            "accuracy_commonest": commonest / n,
            "loss_before": loss_before, "loss_after": loss_after,
        }
        for client, n, before, after, commonest, loss_before, loss_after in zip(
            up.clients, up.examples, up.correct_before, up.correct_after, up.commonest,
            up.loss_before, up.loss_after, strict=True,
        )
    ]  # fmt: skip


def combine(
    clients: Sequence[dict[str, Any]], data: DataSettings, nodes: Nodes
) -> dict[str, Any] | None:
    """An entry for the record about all clients; nothing if there is none.

    Means are over images, as published: a client counts for its images, within
    ``data.weight-limit``. ``over_clients`` has those in which all clients count the same,
    ``std_after`` is the unweighted spread of the clients' accuracies, ``worst_after`` that of the
    worst client, and ``accuracy_commonest`` that of always naming a client's commonest class.
    """
    if not clients:
        return None
    images = dict(enumerate(int(entry["examples"]) for entry in clients))
    vouched = {n for n, entry in enumerate(clients) if nodes.vouched(int(entry["node"]))}
    weights = np.array([*counted(images, data, vouched).values()], float)
    columns = {
        key: np.array([entry[key] for entry in clients])
        for key in (
            "accuracy_before",
            "accuracy_after",
            "accuracy_commonest",
            "loss_before",
            "loss_after",
        )
    }
    return {
        **{key: float(np.average(column, weights=weights)) for key, column in columns.items()},
        "over_clients": {key: float(column.mean()) for key, column in columns.items()},
        "std_after": float(np.std(columns["accuracy_after"])),
        "worst_after": float(columns["accuracy_after"].min()),
        "examples": sum(images.values()),
        "clients": [*clients],
    }
