"""Leaves: a tree ends in the same model as a flat fleet, to the bit, whatever happens in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

import server_app.methods
from common import leaf as wire
from common import registry
from common.config import DataSettings
from common.errors import SettingsError
from common.tensors import Tensors
from common.wire import pack, unpack
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.runs.checkpoints import newest
from server_app.transport.in_process import FIRST_NODE, InProcessGrid, Interference
from server_app.transport.leaves import LeafGrid
from tests.conftest import SMALL, own_server
from tests.test_conformance import PLAIN, TRAINED, lines, model
from tests.trees import LEAF, server_of, tree

Run = Callable[..., Path]
NODES = node_configs(DataSettings(sources=3, targets=4), target_nodes=2)
ONE_BY_ONE = {n for n in TRAINED if registry.load(server_app.methods, n).Server.collects}
FAST = {"fedavg", "augfl", "raffm"}
CONFIG = {**PLAIN, "round.deadline": 20.0}


@pytest.fixture
def branched(small_run: Run, tmp_path: Path) -> Run:
    """A run over two leaves with two devices each, and one device of the server's own."""

    def run(method: str, overrides: dict[str, Any] | None = None, **options: Any) -> Path:
        config = {**CONFIG, "run-name": "tree", **(overrides or {})}
        grid = options.pop("grid", None) or grown(method, config, options.pop("interfere", None))
        server = server_of(own_server(tmp_path), 2, tmp_path)
        return small_run(method, config, grid=grid, server=server, **options)

    return run


def grown(method: str, config: dict[str, Any], interfere: Interference | None) -> InProcessGrid:
    settings = {**SMALL, **config, "method": method}
    return tree([NODES[:2], NODES[2:4]], settings, NODES[4:], interfere)


def gate(folder: Path) -> dict[str, Any]:
    meta = json.loads((folder / "run.json").read_text())
    kept = newest(folder / "checkpoints", meta["token"], print)
    assert kept is not None
    return kept[2]["gate"]


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in TRAINED
        if name not in ONE_BY_ONE
    ],
)
def test_a_tree_ends_in_the_same_model(method: str, small_run: Run, branched: Run):
    flat = small_run(method, {**CONFIG, "run-name": "flat"})
    leaves = branched(method)
    np.testing.assert_array_equal(model(flat), model(leaves))
    for one, other in zip(lines(flat)[1:], lines(leaves)[1:], strict=True):
        for key in ("method", "train", "bytes_up"):
            assert one[key] == other[key], key
        assert [c["examples"] for c in one["clients"]] == [c["examples"] for c in other["clients"]]
    if method != "augfl":  # which measures with secret signs of each machine's own
        assert gate(flat)["bounds"] == gate(leaves)["bounds"]


@pytest.mark.parametrize("method", sorted(ONE_BY_ONE))
def test_a_method_that_needs_more_than_sums_is_refused_before_the_run(
    method: str, branched: Run, tmp_path: Path
):
    with pytest.raises(SettingsError, match=f"{method} needs .* leaf-0 is a leaf"):
        branched(method)
    assert not (tmp_path / "tree").exists()


def to_train(message: Message, node: int, round: int = 0) -> bool:
    metadata = message.metadata
    told = metadata.group_id == str(round) or not round
    return metadata.message_type.startswith("train.") and metadata.dst_node_id == node and told


def spoiled(reply: Message) -> Message:
    content = reply.content["fields"]
    vector = np.frombuffer(content["change.float32"], "<f4").copy()
    vector[3] = np.nan
    content["change.float32"] = vector.tobytes()
    return reply


@pytest.mark.parametrize("node", [FIRST_NODE, FIRST_NODE + 2])
def test_a_bad_reply_is_rejected_at_the_leaf_and_the_rest_is_its_sum(
    node: int, small_run: Run, branched: Run
):
    def spoil(message: Message, reply: Message) -> Message:
        return spoiled(reply) if to_train(message, node) else reply

    config = {**CONFIG, "rounds": 4, "evaluation.who": "targets"}
    found = [
        lines(run("fedavg", {**config, "run-name": name}, interfere=spoil))
        for run, name in ((small_run, "flat"), (branched, "tree"))
    ]
    for flat, leaves in zip(*found, strict=True):
        assert flat["rejected"] == leaves["rejected"]
        assert flat.get("train") == leaves.get("train")
    assert [len(line["rejected"]) for line in found[1]] == [0, 1, 1, 1, 0], "then it is set aside"
    assert found[1][1]["rejected"][0]["node"] == str(node)


def test_an_oversized_reply_is_held_to_what_the_whole_fleet_sends(branched: Run):
    """Two devices of a leaf could not tell which of them is unusual."""

    def blow_up(message: Message, reply: Message) -> Message:
        if to_train(message, FIRST_NODE, round=8):
            content = reply.content["fields"]
            vector = 300 * np.frombuffer(content["change.float32"], "<f4")
            content["change.float32"] = vector.astype("<f4").tobytes()
        return reply

    record = lines(branched("fedavg", {"rounds": 8}, interfere=blow_up))
    assert [entry["field"] for entry in record[8]["rejected"]] == ["change"]
    assert record[8]["replies"] == 2


def test_a_device_without_an_answer_is_late_at_its_leaf_alone(branched: Run):
    def lose(message: Message, reply: Message) -> Message | None:
        return None if to_train(message, FIRST_NODE, round=1) else reply

    record = lines(branched("fedavg", {"round.deadline": 2.0, "rounds": 2}, interfere=lose))
    (missing,) = record[1]["missing"]
    assert missing == {"node": str(FIRST_NODE), "reason": "no reply within 1.8 s"}
    assert record[1]["replies"] == 2
    assert "late with train of round 1" in record[2]["missing"][0]["reason"]


def test_a_leaf_that_fails_loses_its_devices_for_the_round_and_no_more(branched: Run):
    failed: list[int] = []

    def fail(message: Message, reply: Message) -> Message:
        asked = message.metadata.message_type == "query.leaf" and reply.has_content()
        if asked and unpack(wire.Down, message.content).kind.startswith("train.") and not failed:
            failed.append(1)
            return Message(Error(2, "its power went"), reply_to=message)
        return reply

    config = {"rounds": 2, "round.return-timeout": 0.0}
    record = lines(branched("fedavg", config, interfere=fail))
    assert [line["replies"] for line in record[1:]] == [1, 3]
    assert {entry["node"] for entry in record[1]["missing"]} == {
        str(FIRST_NODE), str(FIRST_NODE + 1)
    }  # fmt: skip
    assert "leaf-0: its power went" in record[1]["missing"][0]["reason"]


def amiss(change: Callable[[dict[str, np.ndarray]], object]) -> Interference:
    """The first leaf sends another sum than that of its replies."""

    def spoil(message: Message, reply: Message) -> Message:
        kind = message.metadata.message_type == "query.leaf" and reply.has_content()
        if kind and message.metadata.dst_node_id == LEAF:
            up = unpack(wire.Up, reply.content)
            if up.sums is not None:
                sums = {name: array.copy() for name, array in up.sums.unpack().items()}
                change(sums)
                content = pack(wire.Up(**{**vars(up), "sums": Tensors.pack(sums)}))
                return Message(content, reply_to=message)
        return reply

    return spoil


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda sums: sums["vector/change/0"].__setitem__(0, np.inf), "not finite"),
        (lambda sums: sums["factor/change/0"].__iadd__(1.0), "other weights"),
        (lambda sums: sums.pop("factor/change/0"), "other weights|has parts"),
        (lambda sums: sums.update({"vector/change/0": np.zeros(3)}), "expected are finite"),
        (lambda sums: sums.update({"vector/secret/0": np.zeros(3)}), "no part of these replies"),
        (lambda sums: sums.update({"mean/buffers/sum.0/w": np.zeros(3)}), "no part of these"),
    ],
)
def test_a_sum_that_cannot_be_that_of_its_replies_is_rejected_as_one(
    change: Callable[[dict[str, np.ndarray]], object], told: str, branched: Run
):
    record = lines(branched("fedavg", {"rounds": 1}, interfere=amiss(change)))
    assert [(e["node"], e["field"]) for e in record[1]["rejected"]] == [
        (str(FIRST_NODE), "sum"), (str(FIRST_NODE + 1), "sum")
    ]  # fmt: skip
    assert re.search(told, record[1]["rejected"][0]["reason"])
    assert record[1]["replies"] == 1


@pytest.mark.parametrize("method", ["fedavg", "augfl"])
def test_a_run_over_leaves_goes_on_after_both_servers_were_lost(method: str, branched: Run):
    whole = branched(method, {"rounds": 4, "run-name": "whole"})
    config = {**CONFIG, "run-name": "cut"}
    grid = grown(method, config, None)
    branched(method, {**config, "rounds": 2}, grid=grid)
    again = grown(method, config, None)  # leaves that have seen nothing of the run
    for old, new in zip(devices(grid), devices(again), strict=True):
        new.contexts.update(old.contexts)  # and devices that have
    resumed = branched(method, {**config, "rounds": 4, "resume": True}, grid=again)
    np.testing.assert_array_equal(model(whole), model(resumed))


def devices(grid: InProcessGrid) -> list[InProcessGrid]:
    return [*grid.below, grid]  # type: ignore[attr-defined]


def test_the_record_says_behind_which_leaf_a_device_stands(branched: Run):
    meta = json.loads((branched("fedavg", {"rounds": 1}) / "run.json").read_text())
    assert meta["leaves"] == {
        str(FIRST_NODE): "leaf-0", str(FIRST_NODE + 1): "leaf-0",
        str(FIRST_NODE + 2): "leaf-1", str(FIRST_NODE + 3): "leaf-1",
    }  # fmt: skip


def test_a_leaf_has_no_say_over_devices_that_the_operator_has_put_elsewhere(tmp_path: Path):
    behind = {"one": "leaf-0", "two": "leaf-1", "three": ""}
    config = {**default_config(), **SMALL, "method": "fedavg"}
    grid = LeafGrid(
        tree([NODES[:3]], config, names=[["one", "two", "three"]]),
        ["leaf-0"], behind, config, 10, "token", 5.0, print,
    )  # fmt: skip
    assert list(grid.get_nodes()) == []  # it is asked
    assert [(node.name, node.node_id) for node in grid.get_nodes()] == [("one", FIRST_NODE)]
    assert grid.leaf(FIRST_NODE) == "leaf-0"
