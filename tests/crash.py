"""Runs that kill themselves with SIGKILL at a boundary of a round.

    python -m tests.crash FOLDER METHOD BOUNDARY

A process of its own: a fork would inherit the threads of gRPC and PyTorch that other tests began.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from client_app.app import app
from common.config import DataSettings
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from server_app.monitoring.status import Status
from server_app.runs.folder import RunFolder
from server_app.settings import ServerSettings
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
    "while the untrained model is evaluated": lambda _: Fatal("evaluate", 1, at=0),
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


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the other tests: sums of several threads have other last bits
    boundary = PHASES[sys.argv[3]](pytest.MonkeyPatch())
    play(Path(sys.argv[1]), sys.argv[2], boundary)
