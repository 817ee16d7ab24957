"""What an idle device costs the SuperLink, and when it asks again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.constant import SIGNATURE_HEADER, TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.primitives.asymmetric import generate_key_pairs, verify_signature

from deploy import fleet_calls
from deploy.fleet_calls import LONGEST as LONGEST_ADVICE
from deploy.fleet_calls import SIGNED_FOR, Advice
from deploy.superlink_adaptations import polls
from deploy.superlink_adaptations.polls import (
    IDLE_RATE,
    LONGEST,
    PROMPT,
    RATE,
    SHORTEST,
    Pace,
    Waiting,
)
from deploy.superlink_adaptations.signatures import Verified
from tests.deploy.test_superlink import link_state

# Who waits


def test_only_the_first_look_and_those_after_a_message_are_real():
    waiting, asked = Waiting(), []

    def count(node: int) -> int:
        asked.append(node)
        return 0

    for _ in range(3):
        assert waiting.nothing(7, count)
    assert asked == [7]
    waiting.stored(7)
    assert not waiting.nothing(7, count)
    waiting.looked(7, 1)
    assert waiting.nothing(7, count)
    assert asked == [7]


def test_a_look_in_vain_counts_anew():
    """A message that is there may lack parts, or have expired."""
    waiting, there = Waiting(), [1]
    assert not waiting.nothing(7, lambda _: there[0])
    waiting.looked(7, 0)
    assert not waiting.nothing(7, lambda _: there[0])
    waiting.looked(7, 0)
    there[0] = 0
    assert waiting.nothing(7, lambda _: there[0])


def test_a_message_that_is_stored_during_the_count_is_not_missed():
    waiting = Waiting()

    def slow(node: int) -> int:
        waiting.stored(node)
        return 0

    waiting.nothing(7, slow)
    assert not waiting.nothing(7, lambda _: 1)


def metadata(node: int, ttl: float = 60.0, delivered: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        dst_node_id=node, ttl=ttl, created_at=time.time(), delivered_at=delivered
    )


def test_what_was_not_delivered_is_counted_in_memory():
    messages = [metadata(7), metadata(7, delivered="now"), metadata(7, ttl=-1), metadata(8)]
    store = {n: SimpleNamespace(metadata=each) for n, each in enumerate(messages)}
    state = SimpleNamespace(lock=threading.Lock(), message_ins_store=store)
    assert [polls._undelivered(state, node) for node in (7, 8, 9)] == [1, 1, 0]


def test_what_was_not_delivered_is_counted_in_a_database(tmp_path: Path):
    state = link_state(tmp_path)
    assert polls._undelivered(state, 2**63 + 7) == 0
    with state.session() as session:
        from sqlalchemy import text

        for name, ttl, delivered in (("a", 60, ""), ("b", -1, ""), ("c", 60, "now")):
            columns = {
                "message_id": name, "run_id": 1, "src_node_id": 1, "dst_node_id": 7 - 2**63,
                "created_at": time.time(), "ttl": ttl, "delivered_at": delivered,
            }  # fmt: skip
            names = ", ".join(columns)
            values = ", ".join(f":{key}" for key in columns)
            session.execute(text("PRAGMA foreign_keys = OFF"))
            session.execute(text(f"INSERT INTO message_ins ({names}) VALUES ({values})"), columns)
    assert polls._undelivered(state, 2**63 + 7) == 1


@pytest.fixture
def adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (InMemoryLinkState, SqlLinkState):  # put back afterwards
        for name in ("store_message_ins", "finish_task"):
            monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(FleetServicer, "PullMessages", FleetServicer.PullMessages)


@pytest.mark.usefixtures("adapted")
def test_an_idle_device_is_told_when_to_ask_again(monkeypatch: pytest.MonkeyPatch):
    looks, stored = [], SimpleNamespace(metadata=SimpleNamespace(
        dst_node_id=7, run_id=1, group_id="1", delivered_at="", created_at=time.time(), ttl=60.0,
    ))  # fmt: skip

    def pull(self: Any, request: PullMessagesRequest, context: Any) -> PullMessagesResponse:
        looks.append(request.node.node_id)
        answer = PullMessagesResponse()
        if waits and not stored.metadata.delivered_at:
            stored.metadata.delivered_at = "now"
            answer.messages_list.add()
        return answer

    waits = False
    monkeypatch.setattr(FleetServicer, "PullMessages", pull)
    monkeypatch.setattr(InMemoryLinkState, "store_message_ins", lambda self, message: "id")
    polls.ADAPTATION.apply()
    state = SimpleNamespace(lock=threading.Lock(), message_ins_store={})
    servicer = SimpleNamespace(state_factory=SimpleNamespace(state=lambda: state))

    def ask() -> PullMessagesResponse:
        request = PullMessagesRequest(node=Node(node_id=7))
        return FleetServicer.PullMessages(servicer, request, None)  # type: ignore[arg-type]

    assert [ask().reconnect.reconnect for _ in range(2)] == [1000 * SHORTEST] * 2
    assert looks == []
    waits = True
    InMemoryLinkState.store_message_ins(state, stored)  # type: ignore[arg-type]
    answer = ask()
    assert len(answer.messages_list) == 1
    assert not answer.HasField("reconnect")
    assert ask().reconnect.reconnect == 1000 * SHORTEST
    assert looks == [7]


# When to ask again


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def pace(clock: list[float]) -> Pace:
    return Pace(lambda: clock[0])


def test_idle_devices_ask_less_and_less(pace: Pace, clock: list[float]):
    found = []
    for idle in (0.0, 20.0, 100.0, 3000.0):
        clock[0] = 1000.0 + idle
        found.append(pace.rest(1))
    assert found == pytest.approx([SHORTEST, 2.0, PROMPT, PROMPT])
    pace.sent(1, "")
    assert pace.rest(1) == SHORTEST


def test_many_devices_share_the_looks_that_a_superlink_can_bear(pace: Pace, clock: list[float]):
    pace.sent(1, "1")
    for node in range(2000):
        pace.rest(node)
    assert pace.rest(0) == 2000 / RATE
    clock[0] += 50
    assert pace.rest(0) == 5.0
    clock[0] += 350
    for node in range(2000):
        assert pace.rest(node) <= LONGEST
    assert pace.rest(0) == pytest.approx(2000 / IDLE_RATE, rel=0.01)
    # Those that are gone no longer count.
    pace.sent(1, "1")
    clock[0] += 2 * LONGEST
    pace.rest(0)
    pace.sent(1, "1")
    assert pace.rest(0) == SHORTEST


def test_many_devices_rest_at_once_where_no_run_goes_on(pace: Pace):
    for node in range(2000):
        pace.rest(node)
    long = pytest.approx(2000 / IDLE_RATE, rel=0.01)
    assert pace.rest(0) == long
    pace.sent(1, "1")
    assert pace.rest(0) == 2000 / RATE
    pace.ended()
    assert pace.rest(0) == long


@pytest.mark.usefixtures("adapted")
def test_the_end_of_a_run_lets_many_devices_rest(monkeypatch: pytest.MonkeyPatch):
    ended: list[int] = []
    monkeypatch.setattr(Pace, "ended", lambda self: ended.append(1))
    for state in (InMemoryLinkState, SqlLinkState):
        monkeypatch.setattr(state, "finish_task", lambda self, *_: True)
    polls.ADAPTATION.apply()
    for state in (InMemoryLinkState, SqlLinkState):
        assert state.finish_task(SimpleNamespace(), 1, "stopped", "")  # type: ignore[arg-type]
    assert len(ended) == 2


def test_devices_wake_for_the_next_round(pace: Pace, clock: list[float]):
    for round in ("1", "2"):
        for _ in range(3):
            pace.sent(5, round)
            clock[0] += 1.0
        clock[0] += 97.0
    assert clock[0] == 1200.0, "the third round is due"
    clock[0] = 1122.0
    assert pace.rest(1) == pytest.approx(2.0), "a tenth of the time since the last message"
    clock[0] = 1198.0
    assert pace.rest(1) == pytest.approx(2.0), "the time until the round"
    clock[0] = 1200.5
    assert pace.rest(1) == pytest.approx(0.05), "it may come any time"
    clock[0] = 1220.0
    assert pace.rest(1) == pytest.approx(2.0), "it is late"
    pace.sent(6, "1")
    clock[0] += 25
    assert pace.rest(1) == pytest.approx(2.5), "of another run nothing is known"


# What a device does with it


def call(answer: object = None, error: Exception | None = None) -> SimpleNamespace:
    return SimpleNamespace(result=lambda: answer, exception=lambda: error)


class Sent:
    """The calls that a device makes, with their metadata."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: SimpleNamespace) -> None:
        name = "intercept_unary_unary"  # put back afterwards
        monkeypatch.setattr(
            NodeAuthClientInterceptor, name, getattr(NodeAuthClientInterceptor, name)
        )
        self.now, self.advice, self.calls = 0.0, Advice(), list[dict[str, Any]]()
        self.answer = answer
        fleet_calls._apply(self.advice, lambda: self.now)
        self.private, self.public = generate_key_pairs()
        self._interceptor = NodeAuthClientInterceptor(self.private, self.public)

    def make(self, request: object) -> None:
        details = SimpleNamespace(metadata=[("kept", "too")])
        details._replace = lambda metadata: SimpleNamespace(metadata=metadata)

        def go_on(details: Any, _: object) -> SimpleNamespace:
            self.calls.append(dict(details.metadata))
            return self.answer

        self._interceptor.intercept_unary_unary(go_on, details, request)  # type: ignore[arg-type]


def test_one_signature_serves_for_a_minute(monkeypatch: pytest.MonkeyPatch):
    sent = Sent(monkeypatch, call(PullMessagesResponse()))
    for sent.now in (0.0, 10.0, SIGNED_FOR + 1, SIGNED_FOR + 2):
        sent.make(PullMessagesRequest())
    signatures = [made[SIGNATURE_HEADER] for made in sent.calls]
    assert len(set(signatures)) == 2
    assert signatures[0] == signatures[1] != signatures[2] == signatures[3]
    for made in sent.calls:
        assert made["kept"] == "too"
        stamp = made[TIMESTAMP_HEADER].encode()
        assert verify_signature(sent.public, stamp, made[SIGNATURE_HEADER])


def test_a_device_rests_as_it_is_told(monkeypatch: pytest.MonkeyPatch):
    answer = PullMessagesResponse()
    sent = Sent(monkeypatch, call(answer))
    sent.make(PullMessagesRequest())
    assert sent.advice.rest is None, "a SuperLink without the adaptation says nothing"
    for told, rest in ((4750, 4.75), (1, 0.02), (10**9, LONGEST_ADVICE)):
        answer.reconnect.reconnect = told
        sent.make(PullMessagesRequest())
        assert sent.advice.rest == rest
    sent.make("another call")
    sent.answer = call(None, RuntimeError("no answer"))
    sent.make(PullMessagesRequest())
    assert sent.advice.rest == LONGEST_ADVICE


def test_flower_is_the_one_that_the_adaptation_was_written_for():
    # Fails when Flower's source changes. Read the functions again before renewing FINGERPRINTS.
    assert fleet_calls.fleet_calls(Advice()).differences() == []


# Signatures


def test_a_right_signature_is_checked_once_and_a_wrong_one_always():
    checked: list[tuple[bytes, ...]] = []

    def check(*signed: bytes) -> bool:
        checked.append(signed)
        return signed[2] == b"right"

    verified = Verified(check, most=2)
    for _ in range(3):
        assert verified(b"key", b"time", b"right")
        assert not verified(b"key", b"time", b"wrong")
    assert len(checked) == 1 + 3
    for other in ((b"other", b"time", b"right"), (b"key", b"later", b"right")):
        assert verified(*other)
    assert len(checked) == 1 + 3 + 2, "another key or time is another signature"
    assert verified(b"key", b"time", b"right")
    assert len(checked) == 1 + 3 + 2 + 1, "no more than two are remembered"
