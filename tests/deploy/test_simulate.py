"""What a simulation refuses before it waits for anybody, and how it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import SettingsError
from deploy.simulate import simulate
from server_app.runs.record import read_meta
from server_app.settings import ServerSettings

ROOT = Path(__file__).parents[2]


def test_devices_own_images_need_devices(tmp_path: Path):
    server = ServerSettings(runs=tmp_path / "runs", cache=tmp_path / "cache")
    own = {"data.name": "folder", "data.class-names": "cat,dog", "augfl.lambda": 0.0}
    with pytest.raises(SettingsError, match=r"data\.name=folder: .* give --clients FOLDER"):
        simulate(own, server, lambda text: None)
    assert not (tmp_path / "runs").exists()


def test_sigterm_stops_a_run_and_the_record_says_so(tmp_path: Path):
    code = "from deploy.cli import main; main()"
    options = [f"-s{name}" for name in ("method=fedavg", "rounds=100000", "run-name=a")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "simulate", *options], cwd=tmp_path, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("round "))
        process.terminate()
        said = process.stdout.read()
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert "stopped; go on with: augflower resume" in " ".join(said.split())
    assert read_meta(tmp_path / "runs" / "a").status == "stopped"
