"""Nodes have the names under which their keys were registered, wherever a person looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo

from client_app.app import app
from common.config import DataSettings
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import run
from server_app.monitoring import view
from server_app.monitoring.status import Status
from server_app.report.write import write_report
from server_app.rounds.reasons import told
from server_app.runs.record import Meta, Run, read_run
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from tests.conftest import SMALL

DATA = DataSettings(sources=3, targets=4)
NAMES = {FIRST_NODE: "pi-kitchen", FIRST_NODE + 1: "pi-attic", FIRST_NODE + 3: "pc-1"}


class NamedGrid(InProcessGrid):
    """Nodes as a SuperLink lists those whose keys were registered with a name."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=n, name=NAMES.get(n, "")) for n in self.contexts]


def lose(message: Message, reply: Message) -> Message | None:
    """The first node is silent in training, the second fails."""
    train = message.metadata.message_type.startswith("train")
    if train and message.metadata.dst_node_id == FIRST_NODE:
        return None
    if train and message.metadata.dst_node_id == FIRST_NODE + 1:
        return Message(Error(2, "out of memory"), reply_to=message)
    return reply


def play(small_run: Callable[..., Path], **more: Any) -> tuple[Path, list[str], Status]:
    config = default_config() | SMALL | {"method": "fedavg", "run-name": "named"}
    grid = NamedGrid(app, node_configs(DATA), config, interfere=lose)
    notices: list[str] = []
    status = Status()
    settings = {"run-name": "named", "round.quorum": 0.1, "round.deadline": 0.2, **more}
    folder = small_run("fedavg", settings, grid=grid, notice=notices.append, status=status)
    return folder, notices, status


def test_the_console_says_why_a_reply_is_missing_and_whose(small_run: Callable[..., Path]) -> None:
    _, notices, _ = play(small_run)
    assert "round 1: no reply from pi-kitchen: no reply within 0.2 s" in notices
    assert "round 1: no reply from pi-attic: out of memory" in notices


def test_the_report_and_the_live_page_show_names(
    small_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder, _, status = play(small_run)
    assert json.loads((folder / "run.json").read_text())["nodes"] == {
        str(node): name for node, name in NAMES.items()
    }
    assert read_run(folder).name(str(FIRST_NODE + 2)) == str(FIRST_NODE + 2)
    page = write_report([folder], tmp_path / "page.html").read_text()
    assert '<th scope="row">pi-attic</th>' in page
    seen = status.snapshot()
    rows = {row.node: row for row in view.nodes_of(seen).shown}
    assert (rows[str(FIRST_NODE)].name, rows[str(FIRST_NODE)].clients) == ("pi-kitchen", "client 0")
    assert rows[str(FIRST_NODE + 2)].name == "Client 2"
    assert {loss.node for loss in view.losses_of(seen)} == {"pi-kitchen", "pi-attic"}


def test_one_reason_is_one_line_however_many_nodes_it_had() -> None:
    missing = [{"node": str(n), "reason": "no reply within 5 s"} for n in range(6)]
    rejected = [
        {"node": "7", "step": step, "field": "loss", "reason": "is -1"}
        for step in ("training", "evaluation", "introduction")
    ]
    lines = list(told({"round": 2, "missing": missing, "rejected": rejected}, "n{}".format))
    assert lines == [
        "round 2: no reply from n0, n1, n2, n3 and 2 more: no reply within 5 s",
        "round 2: rejected the reply of n7: loss: is -1",
        "round 2: rejected the evaluation of n7: loss: is -1",
    ]


def test_nodes_that_cannot_take_part_are_not_all_well(tmp_path: Path) -> None:
    def refuse(message: Message, reply: Message) -> Message | None:
        enrols = message.metadata.message_type == "query.enrol"
        if enrols and message.metadata.dst_node_id in (FIRST_NODE, FIRST_NODE + 1):
            return Message(Error(2, "no module named torch"), reply_to=message)
        return reply

    config = default_config() | SMALL | {"method": "fedavg", "round.nodes": 2, "run-name": "few"}
    grid = NamedGrid(app, node_configs(DATA), config, interfere=refuse)
    status = Status()
    run(grid, config, ServerSettings(runs=tmp_path), lambda _: None, status)
    seen = status.snapshot()
    rows = {row.name: row for row in view.nodes_of(seen).shown}
    assert rows["pi-attic"].state == "unready"
    assert rows["pi-attic"].reason == "cannot take part: no module named torch"
    head = view.head_of(seen, read_run(tmp_path / "few"))
    assert ("Nodes", "2 of 4", "2 unready") in head.facts


def test_nodes_that_never_came_are_not_all_well(tmp_path: Path) -> None:
    status = Status()
    meta = {"run": "a", "method": "fedavg", "status": "running", "started": "2026-11-21T04:12:09Z"}
    status.begin(meta | {"settings": {"round.nodes": 3}}, 5)
    status.node(FIRST_NODE, "online", role="source", clients="0", seen=True)
    seen = status.snapshot()
    head = view.head_of(seen, Run(tmp_path, Meta.model_validate(seen["meta"]), []))
    assert ("Nodes", "1 of 3", "2 absent") in head.facts
