"""Bad replies to enrolment and evaluation: the node is left out, by field; the others count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message
from flwr.clientapp import ClientApp

from common import enrolment, evaluation
from common.config import RoundSettings, RunSettings
from common.release import release
from common.tensors import Tensors
from common.wire import PLAIN, pack
from server_app.clients.messaging import Exchange
from server_app.clients.registry import Nodes, Plan
from server_app.method import Setup
from server_app.methods import fedavg
from server_app.monitoring.status import Status
from server_app.rounds.evaluation import evaluate
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from server_app.validation.gate import Gate
from tests.bad_replies import hollow, meta, plain, unreadable, without

MODEL = Tensors.pack({"theta": np.zeros(5, np.float32)})
ASSIGNED = ((9, 30, 0),) * 3 + ((4, 10, 0),) * 6
PLAN = Plan("test", "token", 5, ("cat", "dog"), "digest", 3, ASSIGNED)
OWN = Plan("test", "token", 5, ("cat", "dog"), "")
INTRODUCTION = enrolment.Up(
    "target", [3, 4], 8, 20, 0, "cnn-tiny", ["cat", "dog"], 5, "digest", release(), 0.0, 0, 0.0
)
EVALUATION = evaluation.Up([3, 4], [12, 8], [3, 4], [6, 8], [5, 4], [1.5, 1.0], [0.5, 0.25])
BAD = FIRST_NODE

Spoil = Callable[[Message, list[Message]], Message | None]


def app() -> ClientApp:
    """Three nodes that play two clients each."""
    stub = ClientApp()

    def numbers(context: Context) -> list[int]:
        first = int(context.node_config["first"])
        return [first, first + 1]

    @stub.query("enrol")
    def _(message: Message, context: Context) -> Message:
        return Message(pack(replace(INTRODUCTION, clients=numbers(context))), reply_to=message)

    @stub.evaluate()
    def _(message: Message, context: Context) -> Message:
        return Message(pack(replace(EVALUATION, clients=numbers(context))), reply_to=message)

    return stub


def fleet(
    spoil: Spoil, kind: str, bad: int = BAD, plan: Plan = PLAN
) -> tuple[InProcessGrid, Nodes, Status, list[str]]:
    def interfere(message: Message, reply: Message) -> Message | None:
        at = message.metadata
        if at.dst_node_id != bad or not at.message_type.startswith(kind):
            return reply
        return spoil(reply, []) or reply

    grid = InProcessGrid(app(), [{"first": n} for n in (3, 5, 7)], {}, interfere=interfere)
    notices: list[str] = []
    status = Status()
    nodes = Nodes(grid, plan, notices.append, status, 5.0)
    nodes.discover()
    return grid, nodes, status, notices


def fail(reply: Message, _: list[Message]) -> Message:
    return Message(Error(2, "failed"), reply_to=reply)


def record(name: str, value: Any) -> Spoil:
    return lambda reply, _: reply.content.__setitem__(name, value)


AROUND: dict[str, tuple[Spoil, str]] = {
    "of another node": (meta(src_node_id=99), "node"),
    "of another run": (meta(run_id=77), "run"),
    "to another message": (meta(reply_to_message_id="in-process-999"), "reply-to"),
    "of another kind": (meta(message_type="train.fedavg"), "message-type"),
    "from no time": (meta(created_at=float("inf")), "created-at"),
    "neither content nor error": (hollow, "neither content nor error"),
    "put together badly": (unreadable, "KeyError"),
    "no fields": (lambda reply, _: reply.content.pop(PLAIN) and None, "wire version None"),
    "of another release": (plain(**{"wire-version": 99}), "wire version 99"),
    "of another contract": (plain(contract="x"), "contract"),
    "a field too many": (plain(admin=True), "admin"),
    "a record too many": (record("more", ConfigRecord({"note": 1})), "note"),
    "arrays as well": (record("model", ArrayRecord({})), "model"),
    "megabytes": (plain(clients=[3] * 200_000), "size"),
    "clients as text": (plain(clients=["3", "4"]), "clients"),
    "no clients": (plain(clients=[]), "clients"),
}

SOURCE = {"role": "source", "support": 9, "query": 30}

INTRODUCTIONS: dict[str, tuple[Spoil, str]] = AROUND | {
    "of no role": (plain(role="admin"), "role"),
    "without a role": (without("role"), "role"),
    "a client twice": (plain(clients=[3, 3]), "clients"),
    "a client below zero": (plain(clients=[-3, 4]), "clients"),
    "no support": (plain(support=0), "support"),
    "no query": (plain(query=-5), "query"),
    "absurd numbers of images": (plain(query=10**12), "query"),
    "more images than assigned": (plain(support=9_000_000, query=9_000_000), "support"),
    "an image more than assigned": (plain(query=21), "query"),
    "fewer images than assigned": (plain(support=7), "support"),
    "images of one client for two": (plain(support=4, query=10), "support"),
    "everybody's clients": (plain(clients=list(range(3, 500))), "clients 0 to 8"),
    "a client that is not assigned": (plain(clients=[10**15]), "clients 0 to 8"),
    "the first client that is not": (plain(clients=[8, 9]), "clients 0 to 8"),
    "a source with two clients": (plain(**SOURCE | {"clients": [0, 1]}), "plays one client"),
    "a source's client and a target's": (plain(clients=[2, 3]), "plays one client"),
    "a source as a target's client": (plain(**SOURCE | {"clients": [3]}), "client 3 is a target"),
    "a target as a source's client": (
        plain(**SOURCE | {"clients": [0], "role": "target"}),
        "client 0 is a source",
    ),
    "images as a float": (plain(support=8.0), "support"),
    "of another model": (plain(parameters=6), "parameters"),
    "of other classes": (plain(classes=["cat", "cow"]), "classes: are cat, cow; the run's are"),
    "of another partition": (plain(plan="other"), "divides the images otherwise"),
}

EVALUATIONS: dict[str, tuple[Spoil, str]] = AROUND | {
    "of other clients": (plain(clients=[5, 6]), "clients"),
    "a column too short": (plain(correct_after=[6]), "correct_after"),
    "absurd numbers of images": (plain(examples=[10**9, 8], correct_after=[10**9, 8]), "examples"),
    "fewer than enrolled": (plain(examples=[1, 1], correct_before=[1, 1], correct_after=[1, 1]),
                            "examples"),
    "negative examples": (plain(examples=[-12, 32]), "examples"),
    "more right than there are": (plain(correct_before=[13, 4]), "correct_before"),
    "right below zero": (plain(correct_after=[-1, 8]), "correct_after"),
    "loss is NaN": (plain(loss_after=[float("nan"), 0.5]), "loss_after"),
    "loss is infinite": (plain(loss_before=[float("inf"), 0.5]), "loss_before"),
    "loss below zero": (plain(loss_after=[-1.0, 0.5]), "loss_after"),
    "absurd loss": (plain(loss_before=[1e30, 0.5]), "loss_before"),
    "loss as an int": (plain(loss_before=[1, 2]), "loss_before"),
    "without a loss": (without("loss_after"), "loss_after"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "field"), INTRODUCTIONS.values(), ids=INTRODUCTIONS)
def test_a_bad_introduction_leaves_one_node_out(spoil: Spoil, field: str):
    _, nodes, status, notices = fleet(spoil, "query")
    assert set(nodes.enrolled) == {BAD + 1, BAD + 2}
    assert any(text.startswith(f"node {BAD} cannot") and field in text for text in notices)
    (entry,) = nodes.rejected()
    assert (entry["node"], entry["step"]) == (str(BAD), "introduction")
    assert field in f"{entry['field']}: {entry['reason']}"
    assert status.snapshot()["nodes"][str(BAD)]["state"] == "rejected"
    assert nodes.rejected() == [], "it was told twice"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"clients": [-1, 4]}, "clients"),
        ({"clients": [3]}, "clients"),
        ({"clients": [-1], "support": 10**7 + 1}, "support"),
        ({"clients": [-1], "query": 0}, "query"),
        ({"clients": [-1], "plan": "digest"}, "plan"),
    ],
)
def test_a_device_with_its_own_images_plays_no_client(values: dict[str, Any], field: str):
    _, nodes, _, _ = fleet(plain(**{"plan": ""} | values), "query", plan=OWN)
    assert nodes.enrolled == {}
    assert field in [e["field"] for e in nodes.rejected() if e["node"] == str(BAD)]
    _, nodes, _, _ = fleet(plain(clients=[-1], plan=""), "query", plan=OWN)
    assert set(nodes.enrolled) == {BAD}


def test_an_error_of_a_node_is_one_line_of_a_notice():
    text = "boom\nthe run is in /elsewhere\x1b[2J\r" + "A" * 5000

    def boom(reply: Message, _: list[Message]) -> Message:
        return Message(Error(2, text), reply_to=reply)

    _, nodes, _, (notice,) = fleet(boom, "query")
    assert notice.startswith(f"node {BAD} cannot take part: boom?the run is in /elsewhere?[2J?A")
    assert notice.isprintable()
    assert len(notice) < 350
    assert nodes.rejected() == [], "a failure is no offence"
    found, _, status = evaluated(boom)
    (entry,) = found["evaluation_missing"]
    assert entry["reason"].isprintable()
    assert len(entry["reason"]) == 300
    assert status.snapshot()["nodes"][str(BAD)]["reason"] == entry["reason"]


def test_nobody_takes_the_place_of_a_node_that_is_there():
    _, nodes, _, notices = fleet(plain(clients=[4, 5]), "query", bad=BAD + 2)
    assert set(nodes.enrolled) == {BAD, BAD + 1}
    assert notices == [f"node {BAD + 2} cannot take part: node {BAD} plays clients [4] already"]


def test_honest_introductions_are_taken():
    _, nodes, _, notices = fleet(lambda reply, _: None, "query")
    assert set(nodes.enrolled) == {BAD, BAD + 1, BAD + 2}
    assert notices == []


def evaluated(
    spoil: Spoil, gate: Gate | None = None, round: int = 3
) -> tuple[dict[str, Any], Gate, Status]:
    grid, nodes, status, _ = fleet(spoil, "evaluate")
    gate = gate or Gate()
    rules = RoundSettings(return_timeout=0, deadline=0.2)
    exchange = Exchange(grid, nodes, rules, status)
    method = fedavg.Server(fedavg.Settings(), Setup(MODEL))
    settings: Any = RunSettings.model_construct(evaluation=RunSettings().evaluation, round=rules)
    return evaluate(exchange, nodes, gate, settings, method, round, status), gate, status


@pytest.mark.parametrize(("spoil", "field"), EVALUATIONS.values(), ids=EVALUATIONS)
def test_a_bad_evaluation_does_not_spoil_the_mean(spoil: Spoil, field: str):
    found, gate, status = evaluated(spoil)
    absent, _, _ = evaluated(fail)
    assert found["evaluation"] == absent["evaluation"]
    assert len(found["evaluation"]["clients"]) == 4
    (entry,) = found["rejected"]
    assert (entry["node"], entry["step"]) == (str(BAD), "evaluation")
    assert field in f"{entry['field']}: {entry['reason']}"
    assert found["evaluation_missing"] == []
    assert gate.rejections == {BAD: 1}
    assert status.snapshot()["nodes"][str(BAD)]["state"] == "rejected"


def test_a_node_that_evaluates_badly_is_set_aside_for_a_while():
    gate = Gate()
    lie = plain(correct_after=[99, 99])
    for round in (1, 2, 3):
        found, _, _ = evaluated(lie, gate, round)
        assert [entry["node"] for entry in found["rejected"]] == [str(BAD)]
    found, _, status = evaluated(lie, gate, 4)
    assert (found["rejected"], found["evaluation_missing"]) == ([], [])
    assert len(found["evaluation"]["clients"]) == 4
    assert "asked again in round 14" in status.snapshot()["nodes"][str(BAD)]["reason"]
    found, _, _ = evaluated(lambda reply, _: None, gate, 14)
    assert len(found["evaluation"]["clients"]) == 6
    for round in (15, 16, 17):  # an honest evaluation ends the row of bad ones
        assert evaluated(lie, gate, round)[0]["rejected"] != []
    assert evaluated(lie, gate, 18)[0]["rejected"] == []


def test_a_node_that_fails_to_evaluate_has_not_offended():
    found, gate, _ = evaluated(fail)
    assert len(found["evaluation_missing"]) == 1
    assert gate.rejections == {}, "a failure is no offence"


def test_honest_evaluations_are_taken():
    found, gate, _ = evaluated(lambda reply, _: None)
    assert found["rejected"] == []
    assert len(found["evaluation"]["clients"]) == 6
    assert found["evaluation"]["examples"] == 60
    assert gate.rejections == {}


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_a_node_that_goes_before_it_is_asked_is_missing(timeout: float):
    grid, nodes, status, _ = fleet(lambda reply, _: None, "query")
    rules = RoundSettings(return_timeout=timeout, deadline=5.0)
    exchange = Exchange(grid, nodes, rules, status)
    letter = evaluation.Down(MODEL, Tensors((), {}), 0.1, 1, "support", 1.0)
    gone = grid.contexts.pop(BAD)
    nodes.discover()
    answers = exchange.ask(1, "evaluate", [3, 5], lambda _: letter)
    if timeout:
        grid.contexts[BAD] = gone  # it is back in time
    first, second = sorted(answers, key=lambda answer: answer.client_id)
    assert (first.client_id, first.node) == (3, BAD)
    assert (first.reason, first.reply is None) == (
        ("", False) if timeout else ("it has gone", True)
    )
    assert (second.node, second.reason) == (BAD + 1, "")


@pytest.mark.parametrize(("told", "shown"), [("9.9", "9.9"), ("", "(not installed)")])
def test_a_node_of_another_release_takes_part_and_is_named(told: str, shown: str):
    _, nodes, _, notices = fleet(plain(release=told), "query")
    assert len(nodes.enrolled) == 3
    assert notices == [
        f"{nodes.name(BAD)} has AugFlower {shown}, the server {release()}; install the same "
        "release on both"
    ]
