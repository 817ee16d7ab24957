"""kill -9 of every process of a fleet in the middle of a run, one after the other.

What a run knows devices by does not depend on Flower's random ids, so every run must end with the
bytes that the same run in one process ends with. ``tests/test_crash.py`` kills at every boundary
of a round.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.config import DataSettings
from deploy.bundle import ROOT
from deploy.control import Control
from deploy.environment import flower_environment
from deploy.fleet import Fleet, NodeSpec
from deploy.node import free_port
from deploy.simulate import node_configs, simulate
from deploy.submit import run_on_fleet
from server_app.settings import ServerSettings

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]

DATA = DataSettings(sources=3, targets=2)
SETTINGS = {
    "rounds": 6, "data.sources": 3, "data.targets": 2, "round.nodes": 4, "evaluation.every": 3,
    "augfl.lambda": 1.0, "knowledge.crd": 0.0, "knowledge.kl": 0.0, "round.return-timeout": 90.0,
}  # fmt: skip
MODEL = "models/last.safetensors"
WATCH = f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("fleet")
    nodes = [
        NodeSpec(f"node-{n}", config | {"state-folder": str(home / "devices")})
        for n, config in enumerate(node_configs(DATA))
    ]
    server = {
        "AUGFLOWER_RUNS": str(home / "runs"), "AUGFLOWER_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1", "AUGFLOWER_WATCH": WATCH,
    }  # fmt: skip
    with Fleet(home, nodes, database=True, server_environment=server) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    server = ServerSettings(runs=folder, cache=folder / "cache")
    return model(simulate({**SETTINGS, "run-name": "same"}, server, lambda _: None))


def model(run: Path) -> bytes:
    """The parameters of the last model; its card also tells the run's name."""
    content = (run / MODEL).read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def evaluated(run: Path) -> list[int]:
    """On how many clients each of the evaluations was made."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [len(line["evaluation"]["clients"]) for line in lines if line.get("evaluation")]


def phase() -> str:
    """What the live page says that the run is doing."""
    try:
        with urllib.request.urlopen(f"http://{WATCH}/readyz", timeout=5) as answer:
            return str(answer.read().decode().strip())
    except OSError:  # there is no page before a run, and 503 while it waits
        return ""


def disturbed(
    fleet: Fleet, name: str, disturb: Callable[[], None], during: str = ""
) -> tuple[Path, list[str]]:
    """A run over the fleet that is disturbed once two rounds are done.

    ``during`` puts it off until the next time that the run is in this phase; evaluation is in the
    third round.
    """
    record = fleet.home / "runs" / name / "metrics.jsonl"
    shown: list[str] = []

    def in_the_middle() -> None:
        while not record.exists() or record.read_bytes().count(b"\n") < 3:
            time.sleep(0.02)
        while during and phase() != during:
            time.sleep(0.005)
        disturb()

    thread = threading.Thread(target=in_the_middle, daemon=True)
    thread.start()
    environment = flower_environment(fleet.home / "cli")
    with Control(fleet.address, fleet.home / "cli", environment) as control:
        folder = run_on_fleet(control, ROOT, {**SETTINGS, "run-name": name}, shown.append)
    thread.join(60)
    assert not thread.is_alive(), "it was not disturbed"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(7))
    assert [line["replies"] for line in lines[1:]] == [3] * 6
    return Path(folder), shown


def kill_one(find: Callable[[], list[int]]) -> Callable[[], None]:
    def disturb() -> None:
        while not (found := find()):
            time.sleep(0.005)
        os.kill(found[0], signal.SIGKILL)

    return disturb


@pytest.mark.parametrize(("during", "node"), [("train", "node-1"), ("evaluate", "node-3")])
def test_a_client_app(during: str, node: str, fleet: Fleet, undisturbed: bytes):
    """Of the processes of a device the third: the warm one, the SuperNode, the task at hand."""
    name = f"client-app-{during}"
    folder, _ = disturbed(fleet, name, kill_one(lambda: fleet.pids(node)[2:]), during)
    assert "died: signal SIGKILL" in fleet.log(node).read_text()
    assert model(folder) == undisturbed
    assert evaluated(folder) == [2, 2, 2], "a killed one was asked again"


def test_a_super_node_with_all_that_it_runs(fleet: Fleet, undisturbed: bytes):
    def disturb() -> None:
        fleet.kill("node-2")
        fleet.restart("node-2")

    before = fleet.node_ids["node-2"]
    folder, _ = disturbed(fleet, "super-node", disturb)
    assert fleet.node_ids["node-2"] != before, "it has another id and the same place"
    assert model(folder) == undisturbed


def test_the_super_link(fleet: Fleet, undisturbed: bytes):
    def disturb() -> None:
        fleet.kill("superlink")
        time.sleep(2)
        fleet.restart("superlink")

    folder, shown = disturbed(fleet, "super-link", disturb)
    assert not any("killed" in line for line in shown), "the run itself went on"
    assert model(folder) == undisturbed


@pytest.mark.parametrize("during", ["train", "evaluate"])
def test_the_server_app(during: str, fleet: Fleet, undisturbed: bytes):
    """The executor's newest child; its run is resumed by the command that watches it."""
    disturb = kill_one(lambda: fleet.pids("superexec")[1:][-1:])
    folder, shown = disturbed(fleet, f"server-app-{during}", disturb, during)
    assert any("the server's process was killed" in line for line in shown)
    assert json.loads((folder / "run.json").read_text())["resumed_from"] == "round 2"
    assert model(folder) == undisturbed
    assert evaluated(folder) == [2, 2, 2]


def test_the_executor_with_the_server_app(fleet: Fleet, undisturbed: bytes):
    def disturb() -> None:
        fleet.kill("superexec")
        fleet.restart("superexec")

    folder, shown = disturbed(fleet, "executor", disturb)
    assert any("the server's process was killed" in line for line in shown)
    assert model(folder) == undisturbed
