"""A model that is lost goes back to the best one, whatever the method, and nobody honest pays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client_app.methods import fedavg
from common.errors import DivergedError, RunError
from common.methods.fedavg import Up
from common.tensors import Tensors
from server_app.aggregation.replies import Offer, Replies
from server_app.method import LOST
from server_app.rounds.safeguard import MAX_VAIN, MAX_VOID, Safeguard
from server_app.transport.in_process import FIRST_NODE
from server_app.validation.errors import Rejected
from server_app.validation.gate import PAUSE, Candidate, Gate
from tests.bad_replies import plain

NONE = Tensors((), {})
LIAR = FIRST_NODE + 4
SMALL = {"data.sources": 5, "data.targets": 2, "evaluation.every": 0, "round.return-timeout": 0.0}
Run = Callable[..., Path]


class Method:
    """A model that is one number, and a loss that a test sets."""

    def __init__(self, careful: bool = False) -> None:
        self.model, self.buffers, self.collects = number(0), NONE, frozenset[str]()
        self.loss, self.lost = 1.0, LOST  # the loss is that of all replies
        self.careful, self.blamed = careful, list[bool]()

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        self.model = number(round)
        return {}

    def go_back(self, model: Tensors, buffers: Tensors, blamed: bool) -> bool:
        self.model = model
        self.blamed.append(blamed)
        return self.careful


def number(value: float) -> Tensors:
    return Tensors.pack({"w": np.full(1, value, np.float32)})


def replies(method: Method, count: int) -> Replies:
    """As many as that, each with the loss that the test has set."""
    found = Replies(method)  # type: ignore[arg-type]
    for client in range(count):
        found.accept(Offer(client, Up(1, 1, method.loss, NONE, NONE), 1.0, 1.0, {}, {}, {}))
    return found


def make(careful: bool = False) -> tuple[Safeguard, Method, Gate, list[str]]:
    method, gate, said = Method(careful), Gate(), list[str]()
    return Safeguard(method, gate, 0.5, str, said.append), method, gate, said  # type: ignore[arg-type]


def rejected(gate: Gate, round: int, nodes: range) -> list[dict[str, str]]:
    for node in nodes:
        with pytest.raises(Rejected):
            gate.admit(round, node, lambda: (None, {"change": float("nan")}))
    return [Rejected("change", "size 9; 1 is too much").entry(node, "training") for node in nodes]


def test_most_rejected_is_the_fault_of_the_model():
    guard, method, gate, said = make()
    for round, loss in enumerate((2.0, 1.0, 1.5), 1):
        method.loss = loss
        guard.close(round, 4, replies(method, 4), [])
    metrics, back = guard.close(4, 4, replies(method, 1), rejected(gate, 4, range(3)))
    assert metrics == {"fell_back": 1.0}
    assert back is not None
    assert (back["round"], back["nodes"]) == (2, [])
    assert back["reason"] == "3 of 4 replies are far from usual"
    assert method.model.vector[0] == 1, "round 2 began with the model of the step of round 1"
    assert said[-1].startswith("round 4: 3 of 4 replies are far from usual; the model goes back")
    for round in (5, 6):  # and those that were rejected are as honest as before
        rejected(gate, round, range(1))
    assert gate.set_aside(7) == {}


def test_a_minority_and_two_alone_prove_nothing():
    guard, method, gate, _ = make()
    guard.close(1, 5, replies(method, 5), [])
    assert guard.close(2, 5, replies(method, 3), rejected(gate, 2, range(2))) == (
        {"loss": 1.0},
        None,
    )
    assert guard.close(3, 2, replies(method, 0), rejected(gate, 3, range(2)))[1] is None
    assert guard.close(4, 2, replies(method, 0), rejected(gate, 4, range(2)))[1] is not None, (
        "but twice they do"
    )
    assert method.blamed == [False]


def test_at_the_best_model_it_is_what_was_usual_that_is_at_fault():
    guard, method, gate, _ = make()
    for node in range(20):
        gate.admit(1, node, lambda: (None, {"change": 1.0}))
    guard.close(1, 20, replies(method, 20), [])
    guard.close(2, 4, replies(method, 0), rejected(gate, 2, range(4)))
    one = Candidate(0, None, {"change": 1.0})
    assert gate.plain(one)
    assert guard.close(3, 4, replies(method, 0), rejected(gate, 3, range(4))) == ({}, None)
    assert not gate.plain(one)


def test_a_loss_out_of_all_bounds_goes_back_and_who_was_unusual_is_set_aside():
    guard, method, gate, said = make()
    for node in range(20):
        gate.admit(1, node, lambda: (None, {"change": 1.0}))
    guard.close(1, 20, replies(method, 20), [])
    gate.admit(2, 7, lambda: (None, {"change": 9.0}))
    method.loss = 1.2
    guard.close(2, 20, replies(method, 20), [])
    method.loss = 1e3
    metrics, back = guard.close(3, 20, replies(method, 20), [])
    assert metrics == {"loss": 1e3, "fell_back": 1.0}
    assert back == {"round": 1, "reason": "the loss is 1e+03, 1 at first", "nodes": ["7"]}
    assert "7, unusual since then, set aside for 10 rounds" in said[-1]
    assert gate.set_aside(4) == {7: 4 + PAUSE}
    assert method.blamed == [True]


def lose(guard: Safeguard, method: Method, times: int) -> None:
    for turn in range(times):
        for loss in (1.0, 1e3):
            method.loss = loss
            guard.close(2 * turn + 1 + (loss > 1), 4, replies(method, 4), [])


def test_a_method_that_cannot_help_itself_gives_up():
    guard, method, _, _ = make()
    lose(guard, method, MAX_VAIN - 1)
    with pytest.raises(DivergedError, match="in vain: diverged; raise rho or lower"):
        lose(guard, method, 1)
    careful = make(careful=True)
    lose(*careful[:2], 5 * MAX_VAIN)


def test_void_rounds_end_a_run():
    guard, method, _, _ = make()
    for round in range(1, MAX_VOID):
        assert guard.close(round, 4, replies(method, 1), []) == ({}, None)
    with pytest.raises(RunError, match="5 rounds in a row had fewer replies"):
        guard.close(MAX_VOID, 4, replies(method, 1), [])


def test_goes_on_from_its_state():
    one, method, _, _ = make()
    guard, other, _, _ = make()
    lose(one, method, MAX_VAIN - 1)
    groups, notes = one.state()
    guard.load_state(groups, json.loads(json.dumps(notes)))
    with pytest.raises(DivergedError):
        lose(guard, other, 1)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def longer(factor: float, last: int) -> Callable[[Message, Message], Message]:
    """The liar's change, so many times as long, up to a round."""

    def interfere(message: Message, reply: Message) -> Message:
        meta = message.metadata
        trains = meta.message_type.startswith("train") and int(meta.group_id or 0) <= last
        if trains and meta.dst_node_id == LIAR:
            values = np.frombuffer(reply.content["fields"]["change.float32"], "<f4")
            longer = values * np.float32(factor)
            reply.content["fields"]["change.float32"] = longer.tobytes()
        return reply

    return interfere


@pytest.mark.parametrize(
    ("values", "excessive"),
    [
        ({"distillation_loss": 1e7}, True), ({"distillation_loss": math.nan}, True),
        ({"loss": math.inf}, True), ({"loss": -1.0}, False), ({"loss": 1}, False),
        ({"examples": 10**9}, False), ({"teachers": -1}, False), ({"without": "x"}, False),
    ],
)  # fmt: skip
def test_what_is_too_much_casts_doubt_on_the_model_whatever_its_name(
    values: dict[str, Any], excessive: bool, small_run: Run
):
    """Three of five send it; three that are wrong in another way are just wrong."""

    def interfere(message: Message, reply: Message) -> Message:
        meta = message.metadata
        bad = meta.dst_node_id > FIRST_NODE + 1 and meta.group_id == "2"
        if meta.message_type.startswith("train") and bad:
            plain(**values)(reply, [])
        return reply

    said: list[str] = []
    config = {**SMALL, "rounds": 2, "fed_lpfm.lambda": 0.0}
    record = lines(small_run("fed_lpfm", config, interfere=interfere, notice=said.append))
    assert len(record[2]["rejected"]) == 3
    assert any("far from usual" in text for text in said) is excessive


@pytest.mark.parametrize("factor", [1e3, 9e5])
def test_one_long_reply_in_the_first_round_changes_nothing(factor: float, small_run: Run):
    config = {**SMALL, "rounds": 8}
    folder = small_run("fedavg", config, interfere=longer(factor, 1))
    refused = [(r["round"], e["node"]) for r in lines(folder) for e in r.get("rejected", [])]
    assert refused == [(1, str(LIAR))]
    assert all(line["replies"] == 5 for line in lines(folder)[2:])


def test_fedavg_finds_back_from_what_the_gate_lets_pass(small_run: Run, monkeypatch: Any):
    """While few sizes are known, what all send at once is no outlier."""
    honest = fedavg.train

    def spoiled(down: Any, device: Any) -> Any:
        up = honest(down, device)
        if down.round != 2:
            return up
        return replace(up, change=up.change.with_vector(-1e3 * up.change.vector))

    monkeypatch.setattr(fedavg, "train", spoiled)
    said: list[str] = []
    config = {**SMALL, "rounds": 8, "fedavg.sgd.lr": 0.1}
    record = lines(small_run("fedavg", config, notice=said.append))
    back = [line for line in record if "went_back" in line]
    assert [(line["round"], line["went_back"]["round"]) for line in back] == [(3, 2)]
    assert back[0]["method"]["fell_back"] == 1.0
    assert any("the model goes back to that of round 2" in text for text in said)
    assert record[-1]["train"]["loss"] < record[1]["train"]["loss"]


@pytest.mark.parametrize("loss", [1e2, 1e5])
def test_a_loss_that_one_client_makes_up_decides_nothing(loss: float, small_run: Run):
    def lie(message: Message, reply: Message) -> Message:
        trains = message.metadata.message_type.startswith("train")
        if trains and message.metadata.dst_node_id == LIAR and message.metadata.group_id != "1":
            plain(loss=loss)(reply, [])
        return reply

    config = {**SMALL, "rounds": 8, "augfl.lambda": 0.0}
    honest = small_run("augfl", {**config, "run-name": "honest"})
    lied = small_run("augfl", {**config, "run-name": "lied"}, interfere=lie)
    assert not any("went_back" in line for line in lines(lied))
    assert (honest / "models/last.safetensors").read_bytes()[-4000:] == (
        lied / "models/last.safetensors"
    ).read_bytes()[-4000:]
