"""The table of runs: what it shows, how it is filtered and sorted."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import RunError, SettingsError
from deploy.cli import app
from deploy.research.runs import chosen, table
from server_app.runs.record import read_run


@pytest.fixture
def folder(tmp_path: Path, small_run) -> Path:
    """Two methods of two seeds each, one run that stopped before its first round, one damaged."""
    for method in ("fedavg", "fedprox"):
        for seed in (1, 0):
            small_run(method, {"run-name": f"{method}-{seed}", "seed": seed, "fedavg.sgd.lr": 0.1})
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    (tmp_path / "no-run").mkdir()
    early = tmp_path / "early"
    early.mkdir()
    (early / "run.json").write_text((tmp_path / "fedavg-0" / "run.json").read_text())
    return tmp_path


def names(folder: Path, *conditions: str, sort: str = "") -> list[str]:
    return [row["run"] for row in chosen(folder, conditions, [], sort)]


def test_a_row_says_what_the_record_says(folder: Path):
    rows = {row["run"]: row for row in table(folder, ["fedavg.sgd.lr"])}
    assert set(rows) == {"fedavg-0", "fedavg-1", "fedprox-0", "fedprox-1", "torn", "early"}
    row, run = rows["fedavg-1"], read_run(folder / "fedavg-1")
    last = run.rounds[-1]
    assert (row["method"], row["seed"], row["round"], row["rounds"]) == ("fedavg", 1, 2, 2)
    assert (row["data"], row["model"], row["status"]) == ("digits", "cnn-tiny", "finished")
    assert row["fedavg.sgd.lr"] == 0.1
    assert last.evaluation is not None
    assert row["accuracy_after"] == last.evaluation.accuracy_after
    assert row["loss"] == last.train["loss"]
    assert (rows["torn"]["status"], rows["torn"]["method"]) == ("damaged", None)
    assert (rows["early"]["round"], rows["early"]["accuracy_after"]) == (None, None)


def test_conditions(folder: Path):
    assert set(names(folder, "method=fedprox")) == {"fedprox-0", "fedprox-1"}
    assert names(folder, "method!=fedprox", "seed>=1") == ["fedavg-1"]
    assert names(folder, "status=damaged") == ["torn"]
    assert names(folder, "fedavg.sgd.lr=0.2") == []
    assert len(names(folder, "fedavg.sgd.lr<=0.1")) == 5
    best = max(row["accuracy_after"] or 0 for row in table(folder))
    assert names(folder, f"accuracy_after>{best}") == []
    assert len(names(folder, "loss>0")) == 4


def test_order(folder: Path):
    rows = {row["run"]: row for row in table(folder)}
    up, down = names(folder, sort="loss"), names(folder, sort="-loss")
    assert up[:4] == list(reversed(down[:4]))
    assert set(up[4:]) == set(down[4:]) == {"torn", "early"}
    assert [rows[name]["loss"] for name in up[:4]] == sorted(rows[n]["loss"] for n in up[:4])


def test_what_is_no_condition_or_column(folder: Path):
    with pytest.raises(SettingsError, match="'fedavg' is no condition"):
        names(folder, "fedavg")
    with pytest.raises(SettingsError, match="no column 'accuracy'; there are accuracy_after"):
        names(folder, sort="accuracy")
    with pytest.raises(RunError, match="is not a folder of runs"):
        table(folder / "nowhere")


def test_the_command(folder: Path):
    shown = CliRunner().invoke(
        app,
        ["runs", str(folder), "-w", "method=fedavg", "--show", "fedavg.sgd.lr", "--sort", "seed"],
    )
    head, *lines = shown.stdout.splitlines()
    assert head.split()[0] == "run"
    assert head.split()[-1] == "fedavg.sgd.lr"
    assert [line.split()[0] for line in lines] == ["early", "fedavg-0", "fedavg-1"]
    assert len({line.index("digits") for line in lines}) == 1  # columns stand under each other
    assert "-" in lines[0].split()
    rows = list(csv.DictReader(io.StringIO(
        CliRunner().invoke(app, ["runs", str(folder), "--csv"]).stdout
    )))  # fmt: skip
    assert {row["run"]: row["status"] for row in rows}["torn"] == "damaged"
    assert len(rows) == 6
    none = CliRunner().invoke(app, ["runs", str(folder), "-w", "method=fml"])
    assert none.stdout == f"no runs in {folder} meet the conditions\n"
