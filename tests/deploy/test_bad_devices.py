"""Devices that break the transport, over real processes of Flower: the others go on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import DataSettings
from deploy.bundle import ROOT
from deploy.control import Control
from deploy.environment import flower_environment
from deploy.fleet import Fleet, NodeSpec
from deploy.simulate import node_configs
from deploy.submit import run_on_fleet
from tests.deploy.raw_device import RawDevice

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(400)]

DATA = DataSettings(sources=3, targets=2)
DEADLINE = 6.0
SETTINGS = {
    "method": "fedavg", "rounds": 3, "data.sources": 3, "data.targets": 2,
    "evaluation.every": 2, "round.deadline": DEADLINE, "round.return-timeout": 0.0,
    "data.server-images": 0, "data.pretrain-images": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two sources; the third and the targets are for the bad ones."""
    home = tmp_path_factory.mktemp("fleet")
    nodes = [
        NodeSpec(f"node-{n}", config | {"state-folder": str(home / "devices")})
        for n, config in enumerate(node_configs(DATA)[:2])
    ]
    server = {"AUGFLOWER_RUNS": str(home / "runs"), "AUGFLOWER_CACHE": str(home / "cache")}
    with Fleet(home, nodes, database=True, server_environment=server) as fleet:
        yield fleet


def played(
    fleet: Fleet, name: str, client: int, nodes: int = 3, **bad: str
) -> tuple[list[dict[str, Any]], list[str], RawDevice]:
    """The record of a run with a bad device, what the console showed, and the device."""
    settings: dict[str, Any] = {**SETTINGS, "run-name": name, "round.nodes": nodes}
    config = node_configs(DATA)[client]
    shown: list[str] = []
    environment = flower_environment(fleet.home / "cli")
    address = f"127.0.0.1:{fleet._fleet_port}"
    with (
        RawDevice(address, config, settings, **bad) as device,
        Control(fleet.address, fleet.home / "cli", environment) as control,
    ):
        folder = Path(run_on_fleet(control, ROOT, settings, shown.append))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    return lines, shown, device


def test_training_replies_without_their_parts_cost_one_deadline(fleet: Fleet):
    lines, shown, device = played(fleet, "train", 2, heads_only="train")
    assert device.answered == ["query", "train"], "it is not asked while it is late"
    assert [line["replies"] for line in lines[1:]] == [2, 2, 2]
    assert lines[1]["missing"][0]["reason"] == f"no whole reply within {DEADLINE:g} s"
    assert lines[1]["seconds"]["train"] < DEADLINE + 4
    assert lines[2]["seconds"]["train"] < DEADLINE
    assert any("has begun its reply and not completed it" in line for line in shown), shown


def test_a_judgement_without_its_parts_costs_one_deadline(fleet: Fleet):
    lines, _, device = played(fleet, "evaluate", 3, heads_only="evaluate")
    assert device.answered == ["query", "evaluate"]
    assert lines[0]["evaluation_missing"][0]["reason"] == f"no whole reply within {DEADLINE:g} s"
    assert lines[0]["seconds"]["evaluate"] < DEADLINE + 4
    assert [line["replies"] for line in lines[1:]] == [2, 2, 2]


def test_an_introduction_without_its_parts_holds_up_nobody(fleet: Fleet):
    begun = time.monotonic()
    lines, _, device = played(fleet, "query", 2, nodes=2, heads_only="query")
    assert device.answered == ["query"]
    assert [line["asked"] for line in lines[1:]] == [2, 2, 2]
    assert [line["replies"] for line in lines[1:]] == [2, 2, 2]
    assert all(sum(line["seconds"].values()) < DEADLINE + 4 for line in lines)
    assert time.monotonic() - begun < 100


def test_a_message_that_names_20000_parts_is_refused_and_nobody_waits_for_the_database(
    fleet: Fleet,
):
    lines, _, device = played(fleet, "flood", 2, floods="train")
    assert device.refusals[0].startswith("RESOURCE_EXHAUSTED: refused: it names more than")
    assert [line["replies"] for line in lines[1:]] == [2, 2, 2]
    assert all(sum(line["seconds"].values()) < DEADLINE + 6 for line in lines)
    fleet.check()
    assert "database is locked" not in fleet.log("superlink").read_text()
