"""A sweep runs what it was asked for, once, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import RunError, SettingsError
from common.modelfile import load_model
from deploy.research import sweep
from deploy.research.runs import table
from deploy.research.sweep import (
    command,
    finished,
    parse_grid,
    parse_seeds,
    play,
    points,
    prepare,
)
from server_app.runs.record import read_meta, read_run
from tests.conftest import ROOT, SMALL


def test_every_combination_once_with_the_seeds_of_a_setting_together():
    found = points({"rounds": 2}, parse_grid(["augfl.rho=0.5,1", "method=augfl,fedavg"]), [0, 3])
    assert [point.name for point in found[:3]] == [
        "rho-0.5_method-augfl_seed-0", "rho-0.5_method-augfl_seed-3",
        "rho-0.5_method-fedavg_seed-0",
    ]  # fmt: skip
    assert len(found) == len({point.name for point in found}) == 8
    assert found[-1].settings == {"rounds": 2, "augfl.rho": 1, "method": "fedavg", "seed": 3}


def test_seeds():
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
    for wrong in ("", "a", "1-", "0,,1", "-1"):
        with pytest.raises(SettingsError, match="are no seeds"):
            parse_seeds(wrong)


@pytest.mark.parametrize(
    ("fixed", "grid", "seeds", "reason"),
    [
        ({}, {"rounds": []}, [0], "rounds needs values that differ"),
        ({}, {"rounds": [1, 1]}, [0], "rounds needs values that differ"),
        ({"rounds": 1}, {"rounds": [1]}, [0], "both in the grid and fixed"),
        ({}, {}, [0, 0], "seeds that differ"),
        ({}, {}, [], "seeds that differ"),
        ({}, {"seed": [1, 2]}, [0], "sets seed"),
        ({}, {"pretrained-weights": ["a/b", "a-b"]}, [0], "too long to name folders by"),
    ],
)
def test_what_is_no_sweep(fixed, grid, seeds, reason: str):
    with pytest.raises(SettingsError, match=reason):
        points(fixed, grid, seeds)


def test_a_wrong_setting_is_found_before_anything_is_begun(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"fedavg\.sgd\.lr"):
        prepare(tmp_path / "s", points({}, {"fedavg.sgd.lr": [0.1, -1]}, [0]))
    assert not (tmp_path / "s").exists()


def test_a_folder_is_of_one_sweep(tmp_path: Path):
    first = points({"rounds": 1}, {"method": ["fedavg"]}, [0])
    prepare(tmp_path, first)
    more = points({"rounds": 1}, {"method": ["fedavg", "fedprox"]}, [0, 1])
    prepare(tmp_path, more)
    assert len(json.loads((tmp_path / "sweep.json").read_text())) == 4
    with pytest.raises(RunError, match="other settings, such as of method-fedavg_seed-0"):
        prepare(tmp_path, points({"rounds": 2}, {"method": ["fedavg"]}, [0]))


def small(seeds: list[int], **grid: list[object]) -> list[sweep.Point]:
    return points(SMALL | {"rounds": 2}, {"method": ["fedavg"], **grid}, seeds)


def test_runs_at_once_are_those_of_one_after_the_other(tmp_path: Path, small_run):
    found = small([0, 1])
    prepare(tmp_path / "s", found)
    lines: list[str] = []
    counts: list[int] = []
    assert play(tmp_path / "s", found, 2, lines.append, counts.append) == []
    assert counts == [0, 1, 2]
    assert sorted(line.partition(":")[0] for line in lines) == [point.name for point in found]
    alone = small_run("fedavg", {"seed": 1, "run-name": "alone"})
    ours, theirs = (
        load_model(run / "models/last.safetensors")[0].parameters.vector
        for run in (tmp_path / "s" / found[1].name, alone)
    )
    assert np.array_equal(ours, theirs)
    assert play(tmp_path / "s", found, 2, lines.append, counts.append) == []
    assert lines[-1] == "2 of 2 runs are finished already"
    assert counts[3:] == [2]


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path):
    found = small([0], **{"model": ["no-model", "cnn-tiny"]})
    prepare(tmp_path, found)
    lines: list[str] = []
    failed = play(tmp_path, found, 1, lines.append, lambda _: None)
    assert failed == [found[0].name]
    assert "no model is named 'no-model'" in lines[0]
    assert finished(tmp_path, found[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_nothing_running_and_goes_on(
    tmp_path: Path, number: signal.Signals
):
    words = ["sweep", str(tmp_path / "s"), "--seeds", "0-1", "--jobs", "1", "-s", "rounds=40"]
    words += ["-s", "method=fedavg", "-s", "data.targets=2", "-s", "data.sources=2"]
    start = [sys.executable, "-m", "deploy.cli", *words]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("AUGFLOWER_")}
    environment = plain | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(start, env=environment)
    record = tmp_path / "s" / "seed-0" / "metrics.jsonl"
    while not record.is_file() or len(record.read_text().splitlines()) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    runs = children(process.pid)
    assert len(runs) == 1
    process.send_signal(number)
    assert process.wait(60) != 0
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{run}").exists() for run in runs):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(record.read_text().splitlines()) < 41
    assert read_meta(record.parent).status == "stopped"
    first = record.read_text().splitlines()[0]
    subprocess.run(start, env=environment, check=True)
    rows = table(tmp_path / "s")
    assert {(row["run"], row["status"], row["round"]) for row in rows} == {
        ("seed-0", "finished", 40), ("seed-1", "finished", 40)
    }  # fmt: skip
    run = read_run(tmp_path / "s" / "seed-0")
    assert run.meta.resumed_from is not None
    assert record.read_text().splitlines()[0] == first


def children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in listed.split()]


def test_a_run_whose_sweep_is_gone_does_not_begin(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    begun = subprocess.run(
        [sys.executable, "-m", "deploy.child", str(ended.pid), "simulate"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert begun.returncode == 1
    assert begun.stderr == f"process {ended.pid}, which has started this one, is gone\n"
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_begun_goes_on(tmp_path: Path):
    [point] = small([0])
    assert not any("resume" in word for word in command(point, tmp_path))
    (tmp_path / point.name).mkdir()
    (tmp_path / point.name / "run.json").write_text("{}")
    assert command(point, tmp_path)[-1] == "resume=true"
