"""``flwr run .`` with Flower's own simulation runs the same code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.environment import flower_environment

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment of its own; the SuperLink that ``flwr run`` leaves running is ended after."""
    pytest.importorskip("ray", reason="needs the extra 'simulation'")
    here = str(Path(sys.executable).parent)
    own = flower_environment(tmp_path / "flower") | {
        "AUGFLOWER_RUNS": str(tmp_path / "runs"),
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    yield own
    mark = str(tmp_path / "flower").encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue


def test_a_run_in_flowers_simulation(environment: dict[str, str], tmp_path: Path):
    settings = 'method="fedavg" rounds=1 run-name="here" round.nodes=8'
    done = subprocess.run(
        [
            "flwr", "run", ".", "--stream", "--run-config", settings,
            "--federation-config", "num-supernodes=8 client-resources-num-cpus=1",
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    record = tmp_path / "runs/here/metrics.jsonl"
    assert record.exists(), done.stdout + done.stderr
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    assert lines[1]["replies"] == 6
    assert len(lines[1]["evaluation"]["clients"]) == 18
