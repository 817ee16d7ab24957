"""``augflower follow`` and ``augflower stop`` on runs of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import RunError
from deploy.follow import run_number, told_by
from deploy.run_folder import find_run, writer
from deploy.stop import stop_here
from server_app.runs.folder import RunFolder
from tests.conftest import ROOT

LONG = [
    "-s", "method=fedavg", "-s", "rounds=5000", "-s", "data.sources=2", "-s", "data.targets=2",
    "-s", "evaluation.every=0", "-s", "run-name=long",
]  # fmt: skip


def note(folder: Path, **more: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.fixture
def long(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A simulation that goes on, past its first rounds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "simulate", *LONG],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    record, end = tmp_path / "runs" / "long" / "metrics.jsonl", time.monotonic() + 60
    while not (record.exists() and record.read_text().count("\n") > 2):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    yield process
    process.kill()
    process.communicate()


def test_a_run_is_found_by_its_name_or_its_folder(
    tmp_path: Path, small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    folder = small_run("fedavg", {"rounds": 1, "run-name": "a"})
    monkeypatch.setenv("AUGFLOWER_RUNS", str(tmp_path))
    assert find_run("a") == find_run(str(folder)) == folder
    with pytest.raises(RunError, match="no run 'b'"):
        find_run("b")
    assert run_number("a") == 1
    assert run_number("123456789012345678") == 123456789012345678


def test_what_a_run_said_is_told_again(small_run: Callable[..., Path]):
    said: list[str] = []
    folder = small_run("fedavg", {"rounds": 3}, notice=said.append)
    told = list(told_by(folder))
    rounds = [line for line in said if line.startswith("round")]
    assert len(rounds) == 4
    assert told == [*rounds, said[-1]]


def test_lost_replies_are_told_with_the_names_of_their_devices(small_run: Callable[..., Path]):
    folder = small_run("fedavg", {"rounds": 1})
    record = folder / "metrics.jsonl"
    first, second = map(json.loads, record.read_text().splitlines())
    lost = {"node": "12345678901234567890", "reason": "it is asleep"}
    second |= {"missing": [lost], "train": second["train"] | {"loss": None}}
    record.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    note(folder, nodes={"12345678901234567890": "pi-attic"})
    told = list(told_by(folder))
    assert "round 1: no reply from pi-attic: it is asleep" in told
    assert any("loss nan" in line for line in told)


def test_a_run_that_failed_is_followed_to_its_reason(small_run: Callable[..., Path]):
    folder = small_run("fedavg", {"rounds": 1})
    note(folder, status="failed", error="the disk is on fire")
    with pytest.raises(RunError, match="the run failed: the disk is on fire"):
        list(told_by(folder))


def test_who_writes_a_run_is_known(tmp_path: Path):
    run = RunFolder.create(tmp_path, "mine", {"settings": {}})
    assert writer(run.path) == os.getpid()
    run.finish("finished")
    assert writer(run.path) == 0
    assert writer(tmp_path / "none") is None


def test_a_run_that_nobody_writes_is_not_followed_in_silence(
    small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("deploy.follow._SILENT", 0.1)
    folder = small_run("fedavg", {"rounds": 1})
    note(folder, status="running")
    told = told_by(folder)
    assert [next(told).split(" ·")[0] for _ in range(2)] == ["round 0/1", "round 1/1"]
    assert f"was killed; then: augflower resume {folder}" in next(told)


def test_a_simulation_is_followed_and_stopped(tmp_path: Path, long: subprocess.Popen[str]):
    folder = tmp_path / "runs" / "long"
    told = told_by(folder)
    assert [next(told).split("/")[0].split() for _ in range(3)] == [
        ["round", str(n)] for n in range(3)
    ]
    stop_here(folder)
    out, _ = long.communicate(timeout=30)
    assert "stopped; go on with" in out
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
    with pytest.raises(RunError, match="was stopped"):
        list(told)
    with pytest.raises(RunError, match="is over already: stopped"):
        stop_here(folder)


def test_what_cannot_be_stopped_from_here_is_said(small_run: Callable[..., Path]):
    folder = small_run("fedavg", {"rounds": 1})
    with pytest.raises(RunError, match="is over already: finished"):
        stop_here(folder)
    note(folder, status="running")
    with pytest.raises(RunError, match="no process of this machine writes"):
        stop_here(folder)
    note(folder, status="running", flower_run=123456789)
    with pytest.raises(RunError, match="of a fleet: give --kit"):
        stop_here(folder)
