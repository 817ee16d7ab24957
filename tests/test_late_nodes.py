"""Slow, lost and returning nodes: what a round does about them, and what the record says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from client_app.app import app
from common.config import DataSettings
from common.tensorfile import parse
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from server_app.app import run
from server_app.monitoring.status import Status
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid

DATA = DataSettings(sources=4, targets=2)
QUICK = {
    "data.sources": 4, "data.targets": 2, "evaluation.every": 2, "augfl.lambda": 0.0,
    "round.deadline": 60.0, "round.return-timeout": 0.2, "rounds": 4,
}  # fmt: skip

Run = Callable[..., Path]


class SlowGrid(InProcessGrid):
    """One node's replies arrive ``seconds`` after they were asked for."""

    def __init__(self, slow: int, seconds: float, kind: str = "train") -> None:
        super().__init__(app, node_configs(DATA), default_config() | QUICK)
        self._slow, self._seconds, self._kind = slow, seconds, kind
        self._ready: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for message, message_id in zip(messages, ids, strict=True):
            slow = message.metadata.message_type.startswith(self._kind)
            if slow and message.metadata.dst_node_id == self._slow:
                self._ready[message_id] = time.monotonic() + self._seconds
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        now = time.monotonic()
        return super().pull_messages([i for i in message_ids if self._ready.get(i, now) <= now])


def play(
    folder: Path, overrides: dict[str, Any] | None = None, **options: Any
) -> tuple[Path, list[dict[str, Any]]]:
    server = ServerSettings(runs=folder, cache=folder / "cache")
    config = QUICK | (overrides or {})
    options.setdefault("notice", lambda _: None)
    path = simulate(config, server, options.pop("notice"), **options)
    text = (path / "metrics.jsonl").read_text()
    return path, [json.loads(line) for line in text.splitlines()]


def model(folder: Path) -> np.ndarray:
    path = folder / "models/last.safetensors"
    return parse(path.read_bytes(), str(path))[0]["model"].vector


@pytest.mark.parametrize("slow", [FIRST_NODE, FIRST_NODE + 3])
def test_a_node_a_hundred_times_slower_stops_nothing(
    tmp_path: Path, slow: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("server_app.clients.messaging.LATE_ROUNDS", 10_000)
    status = Status()
    states: set[str] = set()

    def look(text: str) -> None:
        if text.startswith("round"):
            states.add(status.snapshot()["nodes"][str(slow)]["state"])

    _, lines = play(
        tmp_path, {"rounds": 8, "round.deadline": 0.2},
        grid=SlowGrid(slow, 1000.0), status=status, notice=look,
    )  # fmt: skip
    # Other nodes' replies wait behind the slow one's turn and still count.
    assert [line["replies"] for line in lines[1:]] == [3] * 8
    # One deadline is waited for, not one a round.
    assert [line["asked"] for line in lines[1:]] == [4] + [3] * 7
    reasons = ["no reply within 0.2 s"] + ["not asked: it is late with train of round 1"] * 7
    assert [line["missing"] for line in lines[1:]] == [
        [{"node": str(slow), "reason": reason}] for reason in reasons
    ]
    assert states == {"online", "late"}


def test_a_late_reply_is_dropped_and_its_node_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("server_app.clients.messaging.LATE_ROUNDS", 10_000)
    grid = SlowGrid(FIRST_NODE, 1000.0)

    def arrive(text: str) -> None:
        if text.startswith("round 1/"):
            grid._ready.clear()
            grid._seconds = 0.0

    late, lines = play(tmp_path / "late", {"round.deadline": 0.3}, grid=grid, notice=arrive)
    assert [line["replies"] for line in lines[1:]] == [3, 4, 4, 4]
    assert lines[2]["missing"] == []

    def lose_one(message: Message, reply: Message) -> Message | None:
        meta = message.metadata
        lost = (meta.message_type, meta.group_id) == ("train.augfl", "1")
        if lost and meta.dst_node_id == FIRST_NODE:
            return Message(Error(8, "killed"), reply_to=message)
        return reply

    absent, _ = play(tmp_path / "absent", {"round.return-timeout": 0.0}, interfere=lose_one)
    # The dual of the dropped reply counts nowhere: the run is that of a node that was not there.
    np.testing.assert_array_equal(model(late), model(absent))


def test_who_is_slow_decides_nothing(tmp_path: Path):
    """From the sixth round on enough is known, so that replies are taken as they come."""
    found = []
    for seconds in (0.0, 0.15):
        grid = SlowGrid(FIRST_NODE, seconds)
        taken: list[int] = []
        taken_of = grid._answer

        def answer(message: Message, taken=taken, of=taken_of) -> Message | None:  # type: ignore[no-untyped-def]
            if message.metadata.message_type.startswith("train"):
                taken.append(message.metadata.dst_node_id - FIRST_NODE)
            return of(message)

        grid._answer = answer  # type: ignore[method-assign]
        folder, lines = play(tmp_path / f"{seconds}", {"rounds": 7}, grid=grid)
        for line in lines:
            del line["time"], line["seconds"]
            for entry in line.get("clients", []):
                del entry["seconds"]
        found.append((model(folder).tobytes(), lines))
        assert taken[:4] == [0, 1, 2, 3], "the first replies are compared with each other"
        assert taken[-4:] == ([0, 1, 2, 3] if not seconds else [1, 2, 3, 0])
    assert found[0] == found[1]


def test_a_failed_node_is_asked_once_more_and_leaves_no_trace(tmp_path: Path):
    whole, _ = play(tmp_path / "whole")
    failed: dict[str, int] = {}

    def fail_once(message: Message, reply: Message) -> Message:
        meta = message.metadata
        key = f"{meta.message_type} {meta.group_id} {meta.dst_node_id}"
        failed[key] = failed.get(key, 0) + 1
        again = failed[key] == 1 and not meta.message_type.startswith("query")
        return Message(Error(8, "killed"), reply_to=message) if again else reply

    shaken, lines = play(tmp_path / "shaken", interfere=fail_once)
    assert len(failed) > 16
    assert [line["replies"] for line in lines[1:]] == [4] * 4
    assert lines[-1]["evaluation_missing"] == []
    np.testing.assert_array_equal(model(whole), model(shaken))


def test_a_node_that_fails_twice_is_missing_with_its_reason(tmp_path: Path):
    def fail(message: Message, reply: Message) -> Message:
        meta = message.metadata
        bad = meta.message_type.startswith("train") and meta.dst_node_id == FIRST_NODE
        return Message(Error(2, "out of memory"), reply_to=message) if bad else reply

    _, lines = play(tmp_path, interfere=fail)
    for line in lines[1:]:
        assert (line["asked"], line["replies"]) == (4, 3)
        assert line["missing"] == [{"node": str(FIRST_NODE), "reason": "out of memory"}]


def test_a_target_that_does_not_judge_is_in_the_record(tmp_path: Path):
    target = FIRST_NODE + 4

    def lose(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "evaluate" and message.metadata.group_id == "2":
            return Message(Error(8, "no memory left"), reply_to=message)
        return reply

    notices: list[str] = []
    _, lines = play(tmp_path, interfere=lose, notice=notices.append)
    by_round = {line["round"]: line for line in lines}
    assert by_round[2]["evaluation"] is None
    assert by_round[2]["evaluation_missing"] == [{"node": str(target), "reason": "no memory left"}]
    assert by_round[4]["evaluation"]["examples"] > 0
    assert by_round[4]["evaluation_missing"] == []
    assert "evaluation_missing" not in by_round[1]
    assert any(f"no evaluation from node {target} (clients" in text for text in notices)


class ReturningGrid(InProcessGrid):
    """Node 101 loses its first training message, and is there again, restarted, at once."""

    def __init__(self, new_id: int | None) -> None:
        super().__init__(app, node_configs(DATA), default_config() | QUICK)
        self._new_id = new_id
        self._gone = False

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=n, last_activated_at="2" if self._gone and n == FIRST_NODE else "1")
            for n in self.contexts
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ids = []
        for message_id in message_ids:
            meta = self._waiting[message_id].metadata if message_id in self._waiting else None
            lost = meta and (meta.message_type, meta.dst_node_id) == ("train.augfl", FIRST_NODE)
            if lost and not self._gone:
                self._gone = True
                del self._waiting[message_id]
                if self._new_id is not None:
                    context = self.contexts.pop(FIRST_NODE)
                    self.contexts[self._new_id] = Context(
                        1, self._new_id, context.node_config, context.state, context.run_config, 0
                    )
            else:
                ids.append(message_id)
        return super().pull_messages(ids)


@pytest.mark.parametrize("new_id", [None, 999])
def test_a_restarted_node_takes_its_seat_again(
    tmp_path: Path, new_id: int | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("server_app.clients.messaging.LOOK", 0.05)
    rules = {"round.return-timeout": 5.0}
    whole, _ = play(tmp_path / "whole")
    status = Status()
    grid = ReturningGrid(new_id)
    if new_id is not None:
        # Its old id is gone from the SuperLink, which says so when it is asked for the reply.
        monkeypatch.setattr("server_app.clients.messaging.Exchange._restarted", lambda self, sent: (
            self._nodes.discover() or sent.node not in self._nodes.online
        ))  # fmt: skip
    back, lines = play(tmp_path / "back", rules, grid=grid, status=status)
    assert [line["replies"] for line in lines[1:]] == [4] * 4
    np.testing.assert_array_equal(model(whole), model(back))
    nodes = status.snapshot()["nodes"]
    if new_id is not None:
        assert nodes[str(FIRST_NODE)]["state"] == "gone"
        assert nodes[str(new_id)] | {"clients": "0", "state": "online"} == nodes[str(new_id)]


def test_a_late_comer_joins(tmp_path: Path):
    grid = InProcessGrid(app, node_configs(DATA), default_config() | QUICK)
    late = grid.contexts.pop(FIRST_NODE + 1)

    def arrive(text: str) -> None:
        if text.startswith("round 2/"):
            grid.contexts[FIRST_NODE + 1] = late

    server = ServerSettings(runs=tmp_path, cache=tmp_path / "cache")
    config = default_config() | QUICK | {"round.nodes": 4}
    folder = run(grid, config, server, arrive)
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["asked"] for line in lines[1:]] == [3, 3, 4, 4]
    assert np.isfinite(model(folder)).all()


def test_a_run_waits_only_while_no_source_is_there(tmp_path: Path):
    seen: list[tuple[int, str]] = []

    class Phases(Status):
        def phase(self, round: int, name: str) -> None:
            seen.append((round, name))
            super().phase(round, name)

    grid = InProcessGrid(app, node_configs(DATA), default_config() | QUICK)
    contexts = dict(grid.contexts)

    def leave(text: str) -> None:
        if text.startswith("round 2/"):
            grid.contexts.clear()
        if "waiting for a source" in text:
            grid.contexts |= contexts

    play(tmp_path, grid=grid, notice=leave, status=Phases())
    assert [round for round, name in seen if name == "waiting"] == [0, 3]


def test_a_rejected_introduction_is_in_the_record(tmp_path: Path):
    def lie(message: Message, reply: Message) -> Message:
        meta = message.metadata
        if meta.message_type == "query.enrol" and meta.dst_node_id == FIRST_NODE:
            reply.content["fields"]["support"] = 9_000_000
        return reply

    status = Status()
    config = default_config() | QUICK | {"round.nodes": 4, "round.wait": 20.0, "rounds": 1}
    grid = InProcessGrid(app, node_configs(DATA), config, interfere=lie)
    server = ServerSettings(runs=tmp_path, cache=tmp_path / "cache")
    folder = run(grid, config, server, lambda _: None, status)
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    (entry,) = lines[0]["rejected"]
    assert (entry["node"], entry["step"], entry["field"]) == (
        str(FIRST_NODE), "introduction", "support"
    )  # fmt: skip
    assert lines[1]["rejected"] == []
    assert lines[1]["asked"] == 3
    seen = status.snapshot()
    assert seen["totals"]["rejected_introductions"] == 1
    assert seen["nodes"][str(FIRST_NODE)]["rejected"] == 1
    assert [incident["step"] for incident in seen["incidents"]] == ["introduction"]


def test_a_dying_client_app_is_told_from_a_slow_one(tmp_path: Path):
    def dying(message: Message, context: Context) -> Message:
        if message.metadata.message_type.startswith("train") and context.node_id == FIRST_NODE:
            raise MemoryError("too large")
        return app(message, context)

    broken: Any = dying
    assert isinstance(app, ClientApp)
    grid = InProcessGrid(broken, node_configs(DATA), default_config() | QUICK)
    _, lines = play(tmp_path, {"round.return-timeout": 0.0}, grid=grid)
    assert "MemoryError" in lines[1]["missing"][0]["reason"]
    assert lines[2]["asked"] == 4
