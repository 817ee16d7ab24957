"""kill -9 of the server's process at every boundary of a round, and what a resumed run makes of it.

The child is a fork that kills itself; the devices' memory is on disk, as it is on a device.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_app.app import app
from common.config import DataSettings
from common.errors import RunError
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from server_app.runs.folder import RunFolder
from server_app.settings import ServerSettings
from server_app.status import Status
from server_app.transport.in_process import InProcessGrid

DATA = DataSettings(sources=3, targets=2)
SETTINGS = {
    "rounds": 5, "evaluation.every": 1, "data.sources": 3, "data.targets": 2, "round.deadline": 5.0,
    "run-name": "run", "knowledge.kl": 0.0, "knowledge.crd": 0.0, "augfl.lambda": 1.0,
}  # fmt: skip
ROUND = 3


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Fatal(Status):
    """Ends the process when a phase of round 3 is entered for the ``count``-th time."""

    def __init__(self, name: str, count: int, at: int = ROUND) -> None:
        super().__init__()
        self._at, self._name, self._left = at, name, count

    def phase(self, round: int, name: str) -> None:
        super().phase(round, name)
        self._left -= (round, name) == (self._at, self._name)
        if self._left == 0:
            die()


def play(folder: Path, method: str, status: Status | None = None, **more: Any) -> Path:
    state = {"state-folder": str(folder / "devices")}
    nodes = [config | state for config in node_configs(DATA)]
    config = {**SETTINGS, "method": method, **more}
    grid = InProcessGrid(app, nodes, default_config() | config)
    server = ServerSettings(runs=folder, cache=folder.parent / "cache")
    return simulate(config, server, lambda _: None, grid=grid, status=status)


def killed(target: Callable[[], object]) -> None:
    child = multiprocessing.get_context("fork").Process(target=target)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def record(run: Path) -> list[dict[str, Any]]:
    """Its lines, without what differs between two runs of the same."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["time"]
        for client in line.get("clients", []):
            del client["seconds"]
    return lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    runs: dict[str, Path] = {}

    def undisturbed(method: str) -> Path:
        if method not in runs:
            runs[method] = play(tmp_path_factory.mktemp("whole"), method)
        return runs[method]

    return undisturbed


def before_the_rename(monkeypatch: pytest.MonkeyPatch) -> Status:
    """All of the checkpoint is written beside its place."""
    replace = Path.replace

    def fatal(self: Path, target: Path) -> Path:
        if target.name == f"round-{ROUND:06}.safetensors":
            die()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fatal)
    return Status()


def after_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> Status:
    """The checkpoint is there, its line in the record is not."""
    append = RunFolder.append

    def fatal(self: RunFolder, line: dict[str, Any]) -> None:
        if line["round"] == ROUND:
            die()
        append(self, line)

    monkeypatch.setattr(RunFolder, "append", fatal)
    return Status()


def in_the_line(monkeypatch: pytest.MonkeyPatch) -> Status:
    """Half of the line is on disk."""
    append = RunFolder.append

    def fatal(self: RunFolder, line: dict[str, Any]) -> None:
        if line["round"] == ROUND:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write('{"round": 3, "ti')
            die()
        append(self, line)

    monkeypatch.setattr(RunFolder, "append", fatal)
    return Status()


def after_the_line(monkeypatch: pytest.MonkeyPatch) -> Status:
    class AfterTheLine(Status):
        def close(self, line: Any) -> None:
            if line["round"] == ROUND:
                die()

    return AfterTheLine()


PHASES: dict[str, Callable[[pytest.MonkeyPatch], Status]] = {
    "before anybody is there": lambda _: Fatal("waiting", 1, at=0),
    "while the untrained model is judged": lambda _: Fatal("evaluate", 1, at=0),
    "before the broadcast": lambda _: Fatal("broadcast", 1),
    "after the broadcast": lambda _: Fatal("train", 1),
    "between two replies": lambda _: Fatal("train", 4),
    "before the update": lambda _: Fatal("update", 1),
    "during evaluation": lambda _: Fatal("evaluate", 1),
    "before the checkpoint": lambda _: Fatal("checkpoint", 1),
    "in the checkpoint": before_the_rename,
    "after the checkpoint": after_the_checkpoint,
    "in the line of the record": in_the_line,
    "after the line of the record": after_the_line,
    "after the last round": lambda _: Fatal("checkpoint", 1, at=5),
}


@pytest.mark.parametrize("boundary", PHASES)
def test_a_killed_server_ends_where_it_would_have(
    boundary: str, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patches:
        status = PHASES[boundary](patches)
        killed(lambda: play(tmp_path, "augfl", status))
    resumed = play(tmp_path, "augfl", resume=True)
    name = "models/last.safetensors"
    assert (resumed / name).read_bytes() == (whole("augfl") / name).read_bytes()
    assert record(resumed) == record(whole("augfl"))
    assert json.loads((resumed / "run.json").read_text())["status"] == "finished"
    assert list(resumed.rglob(".*.safetensors.*")) == [], "a half-written file is left"


def test_what_a_device_keeps_to_itself_is_not_trained_twice(
    whole: Callable[[str], Path], tmp_path: Path
):
    """FML's own models: the round that is played again starts from those before it."""
    killed(lambda: play(tmp_path, "fml", Fatal("checkpoint", 1)))
    resumed = play(tmp_path, "fml", resume=True)
    own = "devices/run/client-1/fml.safetensors"
    assert (tmp_path / own).read_bytes() == (whole("fml").parent / own).read_bytes()
    assert record(resumed) == record(whole("fml"))


def test_two_processes_never_write_one_run(tmp_path: Path):
    with pytest.raises(RunError, match="is still being written by another process"):
        play(tmp_path, "fedavg", Busy(tmp_path), rounds=1)


class Busy(Status):
    """Tries to resume the run in the middle of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def phase(self, round: int, name: str) -> None:
        if name == "update":
            play(self._folder, "fedavg", rounds=1, resume=True)
