"""A batch's memory goes back to the system: a device's other work needs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MEASURE = """
import os
from pathlib import Path

import numpy as np
from deploy.serving.model import Model
from tests.serving.made import graph

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

model = Model(graph(), threads=1)
model.probabilities(np.zeros((4, 1, 4, 4), np.uint8))
before = resident()
model.probabilities(np.zeros((2**20, 1, 4, 4), np.uint8))
print(resident() - before)
"""
"""Four intermediate results of 64 MiB each."""


def test_a_large_batch_leaves_no_memory_behind() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=root, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40 * 2**20
