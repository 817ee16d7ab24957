"""What the operator says of a device holds: role, clients and images go with its key."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from common.errors import FleetError, SettingsError
from common.wire import pack
from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet
from server_app.clients import registry as module
from server_app.clients.bindings import Binding, awaited, misfits, read_bindings
from server_app.clients.registry import Nodes, Plan
from server_app.monitoring.status import Status
from server_app.settings import read_server_settings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from tests.test_gate_other import INTRODUCTION, OWN, PLAN

PC = Binding(role="target", clients="3-4")
BOUND = {"pc": PC, "pi": Binding(role="source", most_images=100)}


class Named(InProcessGrid):
    """Nodes whose keys were registered under names, and which introduce themselves as told."""

    def __init__(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        app = ClientApp()

        @app.query("enrol")
        def _(message: Message, context: Context) -> Message:
            up = replace(INTRODUCTION, **told[str(context.node_config["name"])])
            return Message(pack(up), reply_to=message)

        super().__init__(app, [{"name": name} for name in told], {})
        self.there = set(self.contexts)

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=str(context.node_config["name"]), last_activated_at="now")
            for node, context in self.contexts.items()
            if node in self.there
        ]


def discovered(plan: Plan, told: Mapping[str, Mapping[str, Any]]) -> tuple[Nodes, list[str]]:
    notices: list[str] = []
    nodes = Nodes(Named(told), plan, notices.append, Status(), 5.0)
    nodes.discover()
    return nodes, notices


ASSIGNED = replace(PLAN, bindings=BOUND)


@pytest.mark.parametrize(
    ("name", "clients", "reason"),
    [
        ("other", [3, 4], "3 is the client of pc alone"),
        ("other", [4, 5], "4 is the client of pc alone"),
        ("pi", [3, 4], "3 is the client of pc alone"),  # of the fleet, with no clients of its own
        ("pc", [5, 6], r"are \[5, 6\]; those of pc are 3-4"),
        ("pc", [3, 5], r"are \[3, 5\]; those of pc are 3-4"),
    ],
)
def test_clients_of_a_partition_go_with_the_key(name: str, clients: list[int], reason: str):
    nodes, (notice,) = discovered(ASSIGNED, {name: {"clients": clients}})
    assert not nodes.enrolled
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(notice)
    # Without what the operator says, the first comer has them.
    assert discovered(PLAN, {name: {"clients": clients}})[0].enrolled


def test_first_comers_wait_in_vain_for_the_clients_of_others():
    nodes, notices = discovered(
        ASSIGNED,
        {"thief": {"clients": [3, 4]}, "pc": {"clients": [3, 4]}, "x": {"clients": [5, 6]}},
    )
    assert {nodes.names[node]: up.clients for node, up in nodes.enrolled.items()} == {
        "pc": [3, 4], "x": [5, 6]
    }  # fmt: skip
    assert len(notices) == 1


MINE = replace(OWN, bindings=BOUND)
OF_ITS_OWN = {"clients": [-1], "plan": "", "role": "source"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"support": 50, "query": 50}, ""),
        ({"support": 50, "query": 51}, "images: are 101; pi may have 100"),
        ({"support": 10**6, "query": 10**6}, "images: are 2000000; pi may have 100"),
        ({"role": "target"}, "role: is target; that of pi is source"),
    ],
)
def test_role_and_images_go_with_the_key(change: dict[str, Any], reason: str):
    nodes, notices = discovered(MINE, {"pi": OF_ITS_OWN | change})
    assert bool(nodes.enrolled) == (reason == "")
    assert all(reason in notice for notice in notices)
    assert nodes.vouched(FIRST_NODE)


def test_who_is_not_in_the_list_is_taken_at_its_word():
    nodes, _ = discovered(MINE, {"new": OF_ITS_OWN | {"query": 10**6}})
    assert nodes.enrolled
    assert not nodes.vouched(FIRST_NODE)


def test_the_servers_kit_says_what_fleet_yaml_says(tmp_path: Path):
    listed: dict[str, Any] = {
        "pi": {"data-folder": "/srv/images", "role": "target", "most-images": 5000},
        "pc": {"clients": "40-59"},
        "new": {},
    }
    settings = {"server": {"names": ["a.org"]}, "nodes": listed}
    fleet.provision(parse_fleet(settings), tmp_path / "fleet")
    kit = tmp_path / "fleet" / "server"
    assert read_bindings(kit / "nodes.json") == {
        "pi": Binding(role="target", most_images=5000),
        "pc": Binding(role="source", clients="40-59"),
        "new": Binding(role="source"),
    }
    assert read_bindings(kit / "nodes.json")["pc"].numbers == list(range(40, 60))
    unit = (kit / "augflower-executor.service").read_text()
    assert "Environment=AUGFLOWER_NODES=/etc/augflower/server/nodes.json\n" in unit
    named = read_server_settings({"AUGFLOWER_NODES": "/etc/augflower/server/nodes.json"})
    assert named.nodes == Path("/etc/augflower/server/nodes.json")
    for node in (tmp_path / "fleet" / "nodes").glob("*/node.toml"):
        assert "most" not in node.read_text(), "a device need not know"


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.pop("bound"),
        lambda kept: kept["bound"].update(pc={"role": "admin", "clients": "", "most_images": 0}),
        lambda kept: kept["bound"].update(pc={"role": "source", "clients": "4-", "most_images": 0}),
        lambda kept: kept["bound"].update(pc={"role": "source", "most_images": -1}),
    ],
)
def test_a_list_that_cannot_be_read_is_an_error(tmp_path: Path, damage: Callable[[Any], Any]):
    path = tmp_path / "nodes.json"
    with pytest.raises(SettingsError, match="AUGFLOWER_NODES"):
        read_bindings(path)
    kept = {"bound": {"pc": PC.model_dump()}}
    path.write_text(json.dumps(kept))
    assert read_bindings(path) == {"pc": PC}
    damage(kept)
    path.write_text(json.dumps(kept))
    with pytest.raises(SettingsError, match="damaged"):
        read_bindings(path)
    assert read_bindings(None) == {}


def lines(clients: int) -> int:
    """Lines of ``nodes.py`` that are executed until so many clients have taken part and met."""
    plan = Plan("r", "t", 5, ("cat", "dog"), "digest", 0, ((1, 1, 0),) * clients)
    told = {str(n): {"clients": [n], "support": 1, "query": 1} for n in range(clients)}
    grid = Named(told)
    nodes = Nodes(grid, plan, lambda _: None, Status(), 60.0)
    count = SimpleNamespace(lines=0)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        count.lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        nodes.discover()
        for client in range(clients):
            nodes.last(client)
    finally:
        sys.settrace(before)
    assert len(nodes.enrolled) == clients
    return count.lines


def test_ten_times_the_clients_are_ten_times_the_work():
    assert lines(1000) < 12 * lines(100)


FLEET = {
    "a": Binding(role="source", clients="0"),
    "b": Binding(role="source", clients="1"),
    "c": Binding(role="source", clients="2-7"),
}


@pytest.mark.parametrize(
    ("sources", "total", "can", "said"),
    [
        (2, 8, ["a", "b", "c"], []),
        (1, 2, ["a", "b"], ["c cannot take part: it plays clients 2-7, and the run has 0 to 1"]),
        (3, 8, ["a", "b"], ["c cannot take part: it plays clients 2-7, and of the 3 that train"]),
        (2, 10, ["a", "b", "c"], ["no device of the fleet plays 8, 9 of the run's clients 0 to 9"]),
        (0, 0, [], []),
    ],
)
def test_the_clients_of_the_fleet_are_compared_with_those_of_the_run(
    sources: int, total: int, can: list[str], said: list[str]
):
    assert awaited(FLEET, sources, total) == can
    found = misfits(FLEET, sources, total)
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


def waiting(there: list[str], count: int, seconds: float) -> list[str]:
    """The notices of a wait for a fleet of which some devices have come."""
    notices: list[str] = []
    bound = {"one": Binding(role="target", clients="3"), "two": Binding(role="target", clients="4")}
    told = {name: {"clients": bound[name].numbers} for name in there}
    told = {name: {**up, "support": 1, "query": 1} for name, up in told.items()}
    # Of the clients 0 to 4 the first three are nobody's, which is said and holds up nothing.
    plan = replace(PLAN, bindings=bound, client_images=((1, 1, 0),) * 5)
    nodes = Nodes(Named(told), plan, notices.append, Status(), 5.0)
    nodes.wait_for(count, seconds)
    assert notices.pop(0).startswith("no device of the fleet plays 0, 1, 2 of the run's clients")
    return notices


def test_a_run_waits_for_the_devices_of_the_fleet_and_names_those_that_are_missing():
    assert waiting(["one", "two"], 0, 5.0) == []
    begun = time.monotonic()
    assert waiting(["one"], 0, 0.5) == [
        "waiting for nodes: 1 of 2 are ready; not there: two",
        "the run begins without two; nobody waits for them",
    ]
    assert time.monotonic() - begun >= 0.5
    # A number that was given is enough, and who is missing is said all the same.
    assert waiting(["one"], 1, 60.0) == ["the run begins without two; nobody waits for them"]
    with pytest.raises(
        FleetError, match="only 0 of 2 nodes were ready after 0 s; not there: one, t"
    ):
        waiting([], 0, 0.2)


def on_demand(plan: Plan, told: Mapping[str, Mapping[str, Any]]) -> Nodes:
    nodes, _ = discovered(replace(plan, on_demand=True), told)
    return nodes


def test_a_source_of_which_all_is_said_introduces_itself_when_it_is_chosen():
    nodes = on_demand(MINE, {"pi": OF_ITS_OWN, "new": OF_ITS_OWN, "pc": OF_ITS_OWN})
    pi, new, pc = FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2
    assert nodes.expected == {pi: pi}
    assert nodes.enrolled.keys() == {new}, "nothing is said of it, so it is asked"
    assert nodes.eligible == [pi, new]
    assert nodes.at(pi) == pi
    nodes.wait_for(2, 0.1)
    nodes.introduce([pi], 5.0)
    assert nodes.enrolled.keys() == {pi, new}
    assert nodes.expected == {}
    assert nodes.sources == nodes.eligible == [pi, new]
    assert pc not in nodes.enrolled, "it is a target in the list, and says that it is a source"


def test_a_source_that_is_refused_is_not_expected():
    nodes = on_demand(MINE, {"pi": OF_ITS_OWN | {"query": 10**6}})
    assert nodes.eligible == [FIRST_NODE]
    nodes.introduce([FIRST_NODE], 5.0)
    nodes.discover()
    assert nodes.eligible == []


def test_where_data_are_partitioned_a_source_is_known_by_its_client():
    plan = replace(ASSIGNED, sources=3, bindings={
        "a": Binding(role="source", clients="2"), "b": Binding(role="source"),
        "c": Binding(role="source", clients="3-4"),
    })  # fmt: skip
    nodes = on_demand(plan, {name: {"clients": [3, 4]} for name in "abc"})
    assert nodes.expected == {2: FIRST_NODE}
    assert nodes.at(2) == FIRST_NODE


def test_a_superlink_that_answers_slowly_is_asked_less_often():
    grid = Named({"pi": OF_ITS_OWN})
    looks, get_nodes = [], grid.get_nodes

    def slow() -> list[NodeInfo]:
        looks.append(time.monotonic())
        time.sleep(0.1)
        return get_nodes()

    grid.get_nodes = slow  # type: ignore[method-assign]
    nodes = Nodes(grid, MINE, lambda _: None, Status(), 60.0)
    with pytest.raises(FleetError, match="only 1 of 2"):
        nodes.wait_for(2, 1.2)
    assert len(looks) <= 4, "it would have time for six"
