"""What a round costs the server by the number of devices: calls to the SuperLink, and own steps."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import PushObjectResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import GetNodesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    iterate_object_tree,
)

from common.config import DataSettings, RoundSettings, RunSettings
from common.methods import fedavg
from common.wire import pack
from server_app.clients.bindings import Binding
from server_app.clients.messaging import Exchange
from server_app.clients.registry import Nodes, Plan
from server_app.monitoring.status import Status
from server_app.rounds.timing import Stopwatch
from server_app.rounds.training import Training
from server_app.validation.gate import Gate
from tests.made_replies import server
from tests.test_gate_other import INTRODUCTION
from tests.test_incomplete import SuperLink, grid_over

SERVER = str(Path(__file__).parents[1] / "server_app")
OWN = replace(INTRODUCTION, role="source", clients=[-1], plan="", support=5, query=15, test=0)


class Counting(SuperLink):
    """Devices that answer as those of a run do; counts the calls by name, and new objects."""

    def __init__(self, devices: int) -> None:
        super().__init__(tuple(range(1001, 1001 + devices)))
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._stored: set[str] = set()
        self._objects: dict[str, bytes] = {}

    def __getattribute__(self, name: str) -> Any:
        method = object.__getattribute__(self, name)
        if not name[:1].isupper():
            return method

        def call(request: Any) -> Any:
            with self.lock:
                self.counts[name] += 1
            return method(request)

        return call

    def GetNodes(self, _: Any) -> GetNodesResponse:
        return GetNodesResponse(
            nodes=[NodeInfo(node_id=n, name=f"d{n}", last_activated_at="now") for n in self.online]
        )

    def PushMessages(self, request: Any) -> PushAppMessagesResponse:
        answer = PushAppMessagesResponse(session_id="s")
        for proto, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            message = message_from_proto(proto)
            name = message.metadata.message_id
            self.made[name] = message.metadata.dst_node_id, message  # type: ignore[assignment]
            answer.message_ids.append(name)
            parts = [part.object_id for part in iterate_object_tree(tree)]
            answer.objects_to_push.extend(part for part in parts if part not in self._stored)
            self._stored.update(parts)
        self.counts["messages"] += len(request.messages_list)
        return answer

    def PushObject(self, _: Any) -> PushObjectResponse:
        return PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> Any:
        for name in request.message_ids:
            node, message = self.made[name]
            if name not in self.given:
                self.made[name] = node, self._reply(node, message)
        answer = super().PullMessages(request)
        for name in request.message_ids:
            reply = self.made[name][1]
            self._objects |= {k: o.deflate() for k, o in get_all_nested_objects(reply).items()}
        return answer

    def PullObject(self, request: Any) -> Any:
        return SimpleNamespace(
            object_found=True, object_available=True,
            object_content=self._objects[request.object_id],
        )  # fmt: skip

    def _reply(self, node: int, message: Message) -> Message:
        if message.metadata.message_type.startswith("query"):
            up: Any = replace(OWN, parameters=len(MODEL))
        else:
            change = np.random.default_rng(node).normal(0, 1e-3, len(MODEL)).astype(np.float32)
            model = MODEL.with_vector(change)
            up = fedavg.Up(int(message.metadata.group_id), 20, 1.0, model, BUFFERS)
        reply = Message(pack(up), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return reply


METHOD = server("fedavg", 0)
MODEL, BUFFERS = METHOD.model, METHOD.buffers


class Rounds:
    """FedAvg over devices with images of their own, of which the operator has a list."""

    def __init__(self, devices: int, fraction: float) -> None:
        self.link = Counting(devices)
        bound = {f"d{node}": Binding(role="source", most_images=50) for node in self.link.online}
        plan = Plan("r", "t", len(MODEL), (), "", bindings=bound, on_demand=fraction < 1)
        settings = RunSettings(
            method="fedavg", data=DataSettings(name="folder"),
            round=RoundSettings(fraction=fraction, nodes=devices),
        )  # fmt: skip
        grid, status = grid_over(self.link), Status()
        nodes = Nodes(grid, plan, lambda _: None, status, 60.0)
        exchange = Exchange(grid, nodes, settings.round, status)
        self.training = Training(
            settings, server("fedavg", 0), nodes, exchange, Gate(), status, lambda _: None
        )
        nodes.wait_for(devices, 60.0)
        self._round = 0

    def play(self) -> tuple[dict[str, Any], Counter[str]]:
        """A round: its line of the record, and the calls that it took."""
        self._round += 1
        self.link.counts.clear()
        line = self.training.run(self._round, Stopwatch())
        return line, Counter(self.link.counts)


def lines(rounds: Rounds) -> int:
    """Lines of the server's code that a round executes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(SERVER):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        rounds.play()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("devices", [100, 1000])
def test_a_sampled_round_touches_those_sampled(devices: int):
    rounds = Rounds(devices, 20 / devices)
    assert rounds.link.counts["messages"] == 0, "nobody is asked for an introduction"
    for number in range(3):
        line, counts = rounds.play()
        assert (line["asked"], line["replies"], line["rejected"]) == (20, 20, [])
        introduced = counts["messages"] - 20
        assert 0 <= introduced <= 20
        if number == 0:
            assert introduced == 20
        # A reply, or an introduction, is three objects and one word that it has come.
        assert counts["PullObject"] == 3 * counts["messages"]
        assert counts["ConfirmMessageReceived"] == counts["messages"]
        assert counts["GetNodes"] <= 2
        # In the first round replies are taken one after the other.
        assert counts["PullMessages"] <= (1 + 20 if number == 0 else 2)


@pytest.mark.parametrize("devices", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_what_is_sent_to_all_is_sent_once(devices: int):
    rounds = Rounds(devices, 1.0)
    _, counts = rounds.play()
    # Each message; and the content of all, with its one record.
    assert counts["PushObject"] == devices + 2
    assert counts["PushMessages"] == 1
    assert counts["PullObject"] == 3 * devices
    _, counts = rounds.play()
    assert counts["PullMessages"] == 1


@pytest.mark.slow
def test_ten_times_the_devices_are_ten_times_the_work():
    found = []
    for devices in (100, 1000):
        rounds = Rounds(devices, 1.0)
        rounds.play()
        found.append(lines(rounds))
    assert found[1] < 11 * found[0]


def test_of_those_that_are_not_sampled_little_is_asked():
    """A walk over who is there remains, of a few lines each."""
    found = []
    for devices in (100, 1000):
        rounds = Rounds(devices, 20 / devices)
        for _ in range(3):
            rounds.play()
        found.append(lines(rounds))
    assert found[1] - found[0] < 900 * 40
