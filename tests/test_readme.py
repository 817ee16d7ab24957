"""The commands under "Use it" work as they stand, in their order, for somebody who starts there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SHORT = ["-s", "rounds=1", "-s", "data.sources=2", "-s", "data.targets=2"]
MORE = {"simulate": SHORT, "pretrain": [*SHORT, "--epochs", "1"], "sweep": SHORT}


def lines() -> list[str]:
    """The lines of the block, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Use it\n\n")[2]
    block = section.partition("\n\n")[0]
    return [line.partition(" #")[0].strip() for line in block.splitlines()]


def commands() -> list[list[str]]:
    """The commands of AugFlower among them, made short."""
    found = []
    for line in lines():
        words = shlex.split(re.sub(r"--rounds \d+", "--rounds 2", line))
        if words[0] == "augflower":
            found.append(words[1:] + MORE.get(words[1], []))
    return found


def variables() -> dict[str, str]:
    """What the block exports."""
    exports = [line.removeprefix("export ") for line in lines() if line.startswith("export ")]
    return dict(line.split("=") for line in exports)


def play(folder: Path, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run one command; a live page is ended with Ctrl-C once the run is over."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "deploy.cli", *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "stays until Ctrl-C" in said:
            process.send_signal(signal.SIGINT)
    return process.wait(60), said


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A folder with nothing in it but the sample images."""
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    return tmp_path


def test_every_line_is_known():
    """None is skipped by the test below for how it is written."""
    assert {line.split()[0] for line in lines()} == {".", "augflower", "export"}
    assert variables() == {"AUGFLOWER_PRIVATE_MODEL": "private"}
    verbs = {words[0] for words in commands()}
    assert {"simulate", "pretrain", "report", "resume", "adapt", "export", "predict"} <= verbs


def test_what_the_commands_leave_is_ignored_by_git(tmp_path: Path):
    """Nobody commits a run, or a private model, by accident."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    products = [
        "runs/A/run.json", "private/config.json", "comparison.html", "adapted.safetensors",
        "teacher/weights.pt", "models/last.onnx",
    ]  # fmt: skip
    found = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", *products],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout.split() == products


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_work_in_their_order(start: Path):
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("AUGFLOWER_", "FLWR_"))}
    environment = plain | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(start / "cache")}
    environment["AUGFLOWER_WATCH"] = "127.0.0.1:0"  # the page's own port may be taken here
    trained = False
    for words in commands():
        code, said = play(start, words, environment | (variables() if trained else {}))
        # Ctrl-C on a live page may come before the command has begun to wait for it.
        assert code in ({0, 128 + signal.SIGINT} if "--watch" in words else {0}), (
            f"augflower {shlex.join(words)}\n{said}"
        )
        trained = trained or words[0] == "pretrain"
    for made in ("runs/A/report.html", "comparison.html", "adapted.safetensors"):
        assert (start / made).stat().st_size > 1000
    assert len(list((start / "runs" / "rho").glob("*/run.json"))) == 6
    assert len(list((start / "runs").glob("*/run.json"))) == 3
