"""Replies whose parts do not come, and a SuperLink that errs: neither stops a round.

The SuperLink is made up at the HTTP client; Flower's own grid is above it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    PullObjectResponse,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    GetNodesResponse,
    PullAppMessagesResponse,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from common import enrolment
from common.config import RoundSettings
from common.errors import FleetError
from common.wire import pack
from server_app.clients import messaging as exchange_module
from server_app.clients.messaging import Answer, Exchange
from server_app.clients.registry import Nodes, Plan
from server_app.monitoring.status import Status
from server_app.transport import incomplete, push
from server_app.transport.in_process import InProcessGrid
from server_app.transport.incomplete import TolerantGrid
from server_app.transport.polling import Unreadable, pull

RUN = 7


def up(node: int) -> enrolment.Up:
    """An introduction; its number of images makes its parts those of one node only."""
    return enrolment.Up("source", [-1], node, 4, 0, "", ["a", "b"], 10, "", "1", 0.0, 0, 0.0)


class SuperLink:
    """Answers for the nodes; of a reply of those in ``partial`` it has only the head."""

    def __init__(self, nodes: tuple[int, ...], partial: tuple[int, ...] = ()) -> None:
        self.online = dict.fromkeys(nodes, "1")
        self.partial = set(partial)
        self.failing = False
        self.lost: set[str] = set()
        self.made: dict[str, tuple[int, Message]] = {}
        self.given: set[str] = set()
        self.confirmed: list[str] = []
        self.calls = 0

    def _check(self) -> None:
        self.calls += 1
        if self.failing:
            request = httpx.Request("POST", "http://superlink")
            raise httpx.HTTPStatusError(
                "database is locked", request=request, response=httpx.Response(500)
            )

    def GetNodes(self, _: Any) -> GetNodesResponse:
        self._check()
        return GetNodesResponse(
            nodes=[NodeInfo(node_id=n, last_activated_at=a) for n, a in self.online.items()]
        )

    def PushMessages(self, request: Any) -> PushAppMessagesResponse:
        self._check()
        names = []
        for proto in request.messages_list:
            message = message_from_proto(proto)
            node = message.metadata.dst_node_id
            reply = Message(pack(up(node)), reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self.made[message.metadata.message_id] = (node, reply)
            names.append(message.metadata.message_id)
        return PushAppMessagesResponse(message_ids=names, session_id="s")

    def PushObject(self, _: Any) -> PushObjectResponse:
        return PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        self._check()
        answer = PullAppMessagesResponse()
        for name in request.message_ids:
            if name in self.made and name not in self.given:
                self.given.add(name)
                _, reply = self.made[name]
                answer.messages_list.append(message_to_proto(_head(reply)))
                answer.message_object_trees.append(get_object_tree(reply))
        return answer

    def PullObject(self, request: Any) -> PullObjectResponse:
        self._check()
        for node, reply in self.made.values():
            found = get_all_nested_objects(reply).get(request.object_id)
            if found is None:
                continue
            if reply.metadata.message_id in self.lost:
                return PullObjectResponse(object_found=False)
            here = node not in self.partial or request.object_id == reply.metadata.message_id
            content = found.deflate() if here else b""
            return PullObjectResponse(
                object_found=True, object_available=here, object_content=content
            )
        return PullObjectResponse(object_found=False)

    def ConfirmMessageReceived(self, request: Any) -> ConfirmMessageReceivedResponse:
        self._check()
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


def _head(reply: Message) -> Message:
    from flwr.app.message import remove_content_from_message

    return remove_content_from_message(reply)


def grid_over(link: SuperLink, clock: Callable[[], float] = time.monotonic) -> TolerantGrid:
    InProcessGrid(lambda *_: None, [], {}, run_id=RUN)  # type: ignore[arg-type]  # sets the sender
    inner = HttpGrid(token="t")
    inner._client = link  # type: ignore[assignment]
    inner.set_run(Run.create_empty(RUN))
    return TolerantGrid(inner, clock)


def send(grid: TolerantGrid, *nodes: int) -> list[str]:
    return list(grid.push_messages([Message(RecordDict(), n, "train", ttl=60) for n in nodes]))


def test_flower_is_the_one_that_this_was_written_for():
    assert incomplete.differences() == []


def test_a_reply_is_taken_once_all_its_parts_are_there():
    link = SuperLink((11,), partial=(11,))
    grid = grid_over(link)
    (name,) = send(grid, 11)
    begun = time.monotonic()
    assert pull(grid, name) is None
    assert pull(grid, name) is None
    assert time.monotonic() - begun < 1, "it waits for nobody"
    assert grid.has_begun(name)
    assert link.confirmed == [], "the SuperLink keeps its parts"
    link.partial.clear()
    reply = pull(grid, name)
    assert isinstance(reply, Message)
    assert reply.content == pack(up(11))
    assert reply.metadata.message_id == link.confirmed[0]
    assert not grid.has_begun(name)
    assert pull(grid, name) is None


def test_a_reply_that_the_superlink_has_dropped_is_an_error():
    link = SuperLink((11,), partial=(11,))
    grid = grid_over(link)
    (name,) = send(grid, 11)
    assert pull(grid, name) is None
    link.lost.add(link.made[name][1].metadata.message_id)
    reply = pull(grid, name)
    assert isinstance(reply, Message)
    assert "not completed" in reply.error.reason
    assert reply.metadata.reply_to_message_id == name


def test_of_a_reply_with_too_many_parts_none_is_fetched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(incomplete, "MOST_PARTS", 2)
    link = SuperLink((11,))
    grid = grid_over(link)
    (name,) = send(grid, 11)
    calls = link.calls
    reply = pull(grid, name)
    assert isinstance(reply, Unreadable)
    assert "parts" in reply.reason
    assert link.calls == calls + 1


def fleet(link: SuperLink, deadline: float = 1.0) -> tuple[Exchange, Status, list[str], Any]:
    """Nodes that are known already, and what asks them."""
    notices: list[str] = []
    grid, status = grid_over(link), Status()

    def discover() -> None:
        nodes.online = {n.node_id: n.last_activated_at for n in grid.get_nodes()}

    nodes: Any = SimpleNamespace(
        online=dict(link.online), enrolled=dict.fromkeys(link.online), discover=discover,
        at=lambda client: client if client in nodes.online else None, last=lambda client: client,
        name=lambda node: f"node {node}",
    )  # fmt: skip
    discover()
    rules = RoundSettings(deadline=deadline, return_timeout=0)
    return Exchange(grid, nodes, rules, status, notices.append), status, notices, nodes


def asked(exchange: Exchange, *clients: int) -> list[Answer]:
    return list(exchange.ask(3, "train.x", clients, up))


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "LOOK", 0.05)
    monkeypatch.setattr(push, "PAUSE", 0.01)


def test_the_deadline_holds_for_a_reply_without_its_parts():
    link = SuperLink((11, 12, 13), partial=(12,))
    exchange, status, notices, _ = fleet(link)
    shown = []
    begun = time.monotonic()
    answers = []
    for answer in exchange.ask(3, "train.x", [11, 12, 13], up):
        answers.append(answer)
        shown.append(status.snapshot()["awaited"])
    assert time.monotonic() - begun < 2.5, "the deadline is 1 s"
    assert [answer.client_id for answer in answers] == [11, 13, 12], "nobody waits for the slow one"
    assert [answer.reply is not None for answer in answers] == [True, True, False]
    assert answers[2].reason == "no whole reply within 1 s"
    (said,) = notices
    assert said.startswith("train of round 3: node 12 has begun its reply and not completed it")
    assert shown == [None] * 3, "nobody is awaited once the answer is there"
    assert status.snapshot()["nodes"]["12"]["state"] == "late"


@pytest.mark.parametrize("in_order", [False, True])
def test_a_slow_client_holds_up_others_only_while_the_order_matters(in_order: bool):
    link = SuperLink((11, 12, 13), partial=(11,))
    exchange, _, _, _ = fleet(link, deadline=30)
    timer = threading.Timer(0.3, lambda: setattr(link, "partial", ()))
    timer.start()
    answers = exchange.ask(3, "train.x", [11, 12, 13], up, in_order=lambda: in_order)
    found = [(answer.client_id, answer.reply is not None) for answer in answers]
    timer.join()
    order = [11, 12, 13] if in_order else [12, 13, 11]
    assert found == [(client, True) for client in order]


def test_one_call_asks_for_all_replies():
    nodes = tuple(range(11, 111))
    link = SuperLink(nodes)
    exchange, _, _, _ = fleet(link, deadline=30)
    looks = []
    pull_messages = link.PullMessages
    link.PullMessages = lambda request: looks.append(1) or pull_messages(request)  # type: ignore[method-assign]
    assert len(list(exchange.ask(3, "train.x", nodes, up))) == 100
    assert len(looks) == 1


def test_the_page_knows_who_is_awaited():
    link = SuperLink((11,), partial=(11,))
    exchange, status, _, _ = fleet(link)
    seen = []

    def look(node: int | None, doing: str = "", until: float = 0.0) -> None:
        Status.await_node(status, node, doing, until)
        seen.append(status.snapshot()["awaited"])

    status.await_node = look  # type: ignore[method-assign]
    asked(exchange, 11)
    entry = seen[0]
    assert (entry["node"], entry["doing"]) == ("11", "has begun its reply and not completed it")
    assert abs(entry["until"] - time.time()) < 2
    assert seen[-1] is None


def test_a_late_node_is_free_again_when_its_reply_is_complete():
    link = SuperLink((11, 12), partial=(12,))
    exchange, _, _, _ = fleet(link, deadline=0.3)
    asked(exchange, 11, 12)
    free, late = exchange.free([11, 12])
    assert free == [11]
    assert "late with train of round 3" in late[0]["reason"]
    link.partial.clear()
    assert exchange.free([11, 12]) == ([11, 12], [])


def test_a_node_that_goes_away_in_the_middle_of_its_reply_is_not_waited_for():
    link = SuperLink((11, 12), partial=(11,))
    exchange, _, _, _ = fleet(link, deadline=30)
    answers = exchange.ask(3, "train.x", [11, 12], up)
    del link.online[11]
    begun = time.monotonic()
    second, first = answers
    assert time.monotonic() - begun < 5
    assert first.reason == "it went away before its reply was complete"
    assert second.reply is not None


def test_an_introduction_without_its_parts_holds_up_nobody():
    link = SuperLink((11, 12), partial=(11,))
    plan = Plan("run", "token", 10, ("a", "b"), "")
    nodes = Nodes(grid_over(link), plan, lambda _: None, Status(), 60.0)
    begun = time.monotonic()
    for _ in range(3):
        nodes.discover()
    assert time.monotonic() - begun < 1
    assert nodes.sources == [12]
    link.partial.clear()
    nodes.discover()
    assert nodes.sources == [11, 12]


def test_an_error_of_the_superlink_does_not_end_a_round():
    link = SuperLink((11,))
    exchange, _, _, nodes = fleet(link)
    answers = exchange.ask(3, "train.x", [11], up)
    link.failing = True
    nodes.discover()
    assert nodes.online == {11: "1"}, "as it was known last"
    assert pull(exchange._grid, "any") is None
    link.failing = False
    (answer,) = answers
    assert answer.reply is not None


def test_messages_are_sent_again_after_an_error():
    link = SuperLink((11,))
    exchange, _, _, _ = fleet(link)
    check, calls = link._check, []

    def fail_twice() -> None:
        calls.append(1)
        link.failing = len(calls) <= 2
        check()

    link._check = fail_twice  # type: ignore[method-assign]
    (answer,) = asked(exchange, 11)
    assert answer.reply is not None


def test_a_superlink_that_does_not_recover_ends_the_run_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
):
    now = [0.0]
    link = SuperLink((11,))
    grid = grid_over(link, lambda: now[0])
    link.failing = True
    grid.get_nodes()
    now[0] = incomplete.LONGEST_TROUBLE + 1
    with pytest.raises(FleetError, match=r"nothing but errors for 300 s.*database is locked"):
        grid.get_nodes()
    monkeypatch.setattr(push, "LONGEST_TROUBLE", 0.05)
    with pytest.raises(FleetError, match="nothing but errors"):
        push.push(grid, lambda: [Message(RecordDict(), 11, "train")])


def test_a_refusal_is_no_trouble():
    link = SuperLink((11,))
    grid = grid_over(link)

    def refuse() -> None:
        request = httpx.Request("POST", "http://superlink")
        raise httpx.HTTPStatusError("no", request=request, response=httpx.Response(404))

    link._check = refuse  # type: ignore[method-assign]
    with pytest.raises(httpx.HTTPStatusError):
        grid.get_nodes()
    with pytest.raises(httpx.HTTPStatusError):
        pull(grid, "any")


@pytest.mark.parametrize("claimed", [1.7e308, -1.0, float("nan"), float("inf"), 0.0])
def test_a_reply_takes_as_long_as_the_servers_clock_says(claimed: float):
    grid_over(SuperLink((11,)))  # Flower makes messages within a run alone
    reply = Message(RecordDict(), 11, "train")
    reply.metadata.__dict__["_created_at"] = claimed
    answer = Answer(1, 11, "m", reply, "", absent=1010.0, seen=1010.2)
    assert answer.seconds(1000.0) == pytest.approx(10.2)


def test_the_date_of_a_reply_is_believed_where_it_is_possible():
    grid_over(SuperLink((11,)))  # Flower makes messages within a run alone
    reply = Message(RecordDict(), 11, "train")
    reply.metadata.__dict__["_created_at"] = 1004.0
    waited = Answer(1, 11, "m", reply, "", absent=0.0, seen=1010.2)
    assert waited.seconds(1000.0) == 4.0, "it had come while another one was awaited"
    missed = Answer(1, 11, "m", reply, "", absent=1010.0, seen=1010.2)
    assert missed.seconds(1000.0) == pytest.approx(10.2), "it had not come when it was looked for"
