"""``augflower simulate --watch`` from the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# A shell that starts programs in the background makes them deaf to Ctrl-C.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from deploy.cli import main
main()
"""


def test_the_page_stays_after_the_run_until_ctrl_c(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1",
        "AUGFLOWER_WATCH": "127.0.0.1:0", "AUGFLOWER_CALLBACKS": "tensorboard", "COLUMNS": "200",
    }  # fmt: skip
    settings = ["augfl.lambda=0", "rounds=2", "data.sources=2", "data.targets=2", "run-name=short"]
    options = [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "simulate", "--watch", *options],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if "stays until Ctrl-C" in line:
                break
        text = "".join(said)
        url = re.findall(r"http://127\.0\.0\.1:\d+/", text)[0]
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert "after adaptation on 2" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert len(re.findall(r"^round \d/2 ", text, re.MULTILINE)) == 3
    assert list((tmp_path / "runs" / "short" / "tensorboard").iterdir())
