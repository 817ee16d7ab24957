"""What a device may push is bounded before Flower takes it in."""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any

import grpc
import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer

from common.errors import SettingsError
from deploy.superlink_adaptations.bounds import (
    ADAPTATION,
    BESIDE,
    HEAD,
    LARGEST,
    Bounds,
    read_bounds,
)


def tree(parts: int) -> ObjectTree:
    names = (hashlib.sha256(str(n).encode()).hexdigest() for n in range(parts))
    children = [ObjectTree(object_id=name) for name in names]
    return ObjectTree(object_id=children.pop().object_id, children=children)


def head(parts: int, **metadata: Any) -> PushMessagesRequest:
    return PushMessagesRequest(
        node=Node(node_id=5),
        messages_list=[Message(metadata=Metadata(**metadata))],
        message_object_trees=[tree(parts)],
    )


def test_a_message_may_name_as_many_parts_as_its_bytes_need():
    bounds = Bounds(megabytes=100)
    assert bounds.parts == BESIDE + 12
    assert bounds.head(head(bounds.parts)) == ""
    assert f"more than {bounds.parts} parts" in bounds.head(head(bounds.parts + 1))
    assert "more than" in bounds.head(head(12_000))


def test_parts_are_counted_however_deep_they_are():
    bounds = Bounds(megabytes=1)
    deep = tree(10)
    for _ in range(40):
        deep = ObjectTree(object_id="a" * 64, children=[*tree(9).children, deep])
    request = head(1)
    request.message_object_trees[0].CopyFrom(deep)
    assert "more than" in bounds.head(request)


def test_a_head_is_one_short_message():
    bounds = Bounds()
    assert "not one message" in bounds.head(PushMessagesRequest())
    two = head(1)
    two.message_object_trees.add()
    assert "not one message" in bounds.head(two)
    assert "bytes" in bounds.head(head(1, group_id="x" * (HEAD + 1)))


def part(session: str, size: int) -> PushObjectRequest:
    return PushObjectRequest(session_id=session, object_content=b"x" * size)


def test_the_bytes_of_a_message_are_bounded_over_all_its_parts():
    bounds = Bounds(megabytes=1)
    assert bounds.part(part("a", 600_000)) == ""
    assert bounds.part(part("b", 600_000)) == ""
    assert "more than 1000000 bytes" in bounds.part(part("a", 400_001))
    assert bounds.part(part("b", 400_000)) == ""
    assert "which message" in bounds.part(part("", 1))


def test_the_setting_is_a_number_of_megabytes():
    assert read_bounds({}).size == 1024 * 10**6
    assert read_bounds({LARGEST: "5000"}).size == 5 * 10**9
    for wrong in ("0", "-1", "1e3", "much", "10000001"):
        with pytest.raises(SettingsError, match=LARGEST):
            read_bounds({LARGEST: wrong})


class Refused(Exception):
    pass


class Context:
    def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise Refused(code.name, text)


@pytest.fixture
def servicer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's servicer, adapted, with no state: what reaches it fails."""
    module = import_module("flwr.superlink.cli.flower_superlink")
    for place, name in ((FleetServicer, "PushMessages"), (FleetServicer, "PushObject"),
                        (module, "GRPC_MAX_MESSAGE_LENGTH")):  # fmt: skip
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.delenv(LARGEST, raising=False)
    ADAPTATION.apply()

    def taken_in() -> Any:
        raise LookupError("it is taken in")

    factory: Any = type("Factory", (), {"state": staticmethod(taken_in)})
    return FleetServicer(factory, factory, False)


def test_flowers_servicer_refuses_before_it_takes_anything_in(servicer: Any):
    with pytest.raises(Refused, match=r"RESOURCE_EXHAUSTED.*parts"):
        servicer.PushMessages(head(12_000), Context())
    with pytest.raises(Refused, match="RESOURCE_EXHAUSTED"):
        servicer.PushObject(part("", 1), Context())
    with pytest.raises(LookupError):
        servicer.PushMessages(head(12), Context())
    with pytest.raises(LookupError):
        servicer.PushObject(part("s", 1), Context())
