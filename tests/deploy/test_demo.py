"""The whole product over real Flower processes and gRPC: the demo, shortened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.deploy


def start(folder: Path, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deploy.cli", "demo"]
    return subprocess.Popen(
        [*command, "--rounds", str(rounds), "--folder", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def left_behind(folder: Path) -> list[str]:
    """Command lines of processes that still belong to a fleet in ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environment + command and int(entry.name) != os.getpid():
            found.append(command.decode(errors="replace").replace("\0", " "))
    return found


def test_all_runs_end_and_are_compared(tmp_path: Path):
    process = start(tmp_path, 2)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    told = [line for line in output.splitlines() if line.startswith("   round") and "after" in line]
    assert len(told) >= 8, "each of four runs is evaluated twice"
    assert all(line.endswith(" s") for line in told), "lines do not wrap"
    (folder,) = tmp_path.iterdir()
    for name, private in (("fedavg", False), ("augavg", True)):
        meta = json.loads((folder / name / "run.json").read_text())
        assert meta["status"] == "finished"
        assert meta["private_model"] is private
        lines = [json.loads(x) for x in (folder / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["round"] for line in lines] == [0, 1, 2]
        assert [line["replies"] for line in lines[1:]] == [6, 6]
        assert lines[-1]["rejected"] == lines[-1]["missing"] == []
        assert len(lines[-1]["evaluation"]["clients"]) == 18
        assert (folder / name / "models/last.safetensors").stat().st_size > 10_000
    assert "<svg" in (folder / "comparison.html").read_text()
    # The devices installed a bundle each, and none holds a file of the server's half.
    bundles = [path for path in (folder / "fleet").rglob("client_app") if path.is_dir()]
    assert bundles
    for bundle in bundles:
        assert not (bundle.parent / "server_app").exists()
    assert left_behind(tmp_path) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path):
    process = start(tmp_path, 50)
    end = time.monotonic() + 150
    while not list(tmp_path.glob("*/fedavg/metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in output
    assert left_behind(tmp_path) == []
