"""``augflower run`` and ``augflower resume`` against a SuperLink that is up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import DataSettings
from deploy.fleet import Fleet, NodeSpec
from deploy.simulate import node_configs

DATA = DataSettings(sources=2, targets=2)
SETTINGS = {
    "data.sources": 2, "data.targets": 2, "round.nodes": 3, "augfl.lambda": 0.0,
    "evaluation.every": 1, "rounds": 2,
}  # fmt: skip
ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli", *arguments]


def run(fleet: Fleet, *more: str) -> list[str]:
    assignments = [part for k, v in SETTINGS.items() for part in ("-s", f"{k}={v}")]
    return command("run", "--superlink", fleet.address, "--insecure", *assignments, *more)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    out, err = process.communicate(timeout=150)
    return process.returncode, out.splitlines(), err


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("fleet")
    nodes = [
        NodeSpec(f"node-{n}", config | {"state-folder": str(home / "devices")})
        for n, config in enumerate(node_configs(DATA))
    ]
    server = {"AUGFLOWER_RUNS": str(home / "runs"), "AUGFLOWER_CACHE": str(home / "cache")}
    with Fleet(home, nodes, server_environment=server) as fleet:
        yield fleet


@pytest.mark.deploy
def test_a_run_shows_its_rounds_and_ends_with_its_folder(fleet: Fleet):
    code, lines, error = ended(start(run(fleet, "--name", "first")))
    assert code == 0, error
    folder = fleet.home / "runs" / "first"
    assert lines[-1] == str(folder)
    assert [line.split(" ·")[0] for line in lines if line.startswith("round")] == [
        "round 0/2", "round 1/2", "round 2/2"
    ]  # fmt: skip
    assert not any("INFO" in line or "\x1b" in line for line in lines), lines
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"

    more = command("resume", str(folder), "--rounds", "3")
    code, lines, error = ended(start([*more, "--superlink", fleet.address, "--insecure"]))
    assert code == 0, error
    assert lines[-1] == str(folder)
    meta = json.loads((folder / "run.json").read_text())
    assert (meta["status"], meta["resumed_from"]) == ("finished", "round 2")
    record = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in record] == [0, 1, 2, 3]
    # The devices found their duals again: nothing was started anew.
    assert record[-1]["replies"] == 2
    assert "restarted_duals" not in record[-1]["method"]

    code, _, error = ended(start(run(fleet, "--name", "first")))
    assert code == 1
    assert "run 'first' exists" in error


@pytest.mark.deploy
def test_ctrl_c_stops_the_run(fleet: Fleet):
    process = start(run(fleet, "-s", "rounds=500", "--name", "long"))
    record = fleet.home / "runs" / "long" / "metrics.jsonl"
    end = time.monotonic() + 60
    while (not record.exists() or not record.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, _, error = ended(process)
    assert code == 1
    assert "the run was stopped" in error
    assert f"augflower resume {record.parent}" in error.replace("\n", " ")
    meta = record.parent / "run.json"
    while json.loads(meta.read_text())["status"] == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert json.loads(meta.read_text())["status"] == "stopped"


def test_plaintext_stays_on_this_machine_and_settings_are_checked_first():
    for arguments, expected in (
        (("--superlink", "example.org:8000", "--insecure"), "loopback only"),
        ((), "give either --root-certificates FILE or --insecure"),
        (("--root-certificates", "/nowhere/ca.crt"), "there is no file /nowhere/ca.crt"),
        (("--insecure", "-s", "raunds=3"), "unknown setting raunds"),
    ):
        code, _, error = ended(start(command("run", *arguments)))
        assert code == 1
        assert expected in error
