"""kill -9 of the server's process at every boundary of a round, and what a resumed run makes of it.

The devices' memory is on disk, as it is on a device.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import RunError
from server_app.monitoring.status import Status
from tests.crash import PHASES, play


def killed(folder: Path, method: str, boundary: str) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.crash", str(folder), method, boundary],
        check=False, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]


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


@pytest.mark.parametrize("boundary", PHASES)
def test_a_killed_server_ends_where_it_would_have(
    boundary: str, whole: Callable[[str], Path], tmp_path: Path
):
    killed(tmp_path, "augfl", boundary)
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
    killed(tmp_path, "fml", "before the checkpoint")
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
