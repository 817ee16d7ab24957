"""Memory of every process over many rounds: does anything grow?

A whole fleet on this machine, over gRPC: SuperLink with its database, executor, ServerApp and warm
devices, AugFL on a tiny model. Once a round the resident memory of each process is read; the table
has the slope of a straight line through the second half of the rounds, after caches have filled,
with its standard error. A device's figure is that of its warm process and its SuperNode, which
live as long as the device; tasks are forks that end with their message.

    python -m benchmarks.soak --rounds 500
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.machine import footer
from common.config import DataSettings
from common.errors import FleetError
from deploy.bundle import ROOT
from deploy.control import Scalar
from deploy.fleet import Fleet, NodeSpec
from deploy.simulate import node_configs

COMMAND = "python -m benchmarks.soak"
DATA = DataSettings(sources=3, targets=2, samples_min=5, samples_max=8)
console = Console(stderr=True, highlight=False)

LOOK = 3.0
"""Seconds between two looks at the run's state, which the SuperLink has to answer."""

Samples = dict[str, list[tuple[int, float]]]
"""Process -> (round, MiB)."""


def soak(rounds: int, home: Path, limit: float) -> tuple[Samples, float]:
    """Resident memory of each process after each round, and seconds a round.

    Parameters
    ----------
    limit: seconds after which the run is stopped, whatever round it has reached.
    """
    devices = [
        NodeSpec(f"device {n}", config | {"state-folder": str(home / "devices")})
        for n, config in enumerate(node_configs(DATA))
    ]
    config: dict[str, Scalar] = {
        "rounds": rounds, "run-name": "soak", "round.nodes": len(devices), "evaluation.every": 10,
        "data.sources": DATA.sources, "data.targets": DATA.targets,
        "data.samples-min": DATA.samples_min, "data.samples-max": DATA.samples_max,
        "augfl.lambda": 0.0,
    }  # fmt: skip
    record = home / "runs" / "soak" / "metrics.jsonl"
    samples: Samples = {}
    server = {"AUGFLOWER_RUNS": str(home / "runs"), "OMP_NUM_THREADS": "1"}
    with (
        Fleet(home, devices, database=True, server_environment=server) as fleet,
        Progress(console=console) as progress,
    ):
        task = progress.add_task("rounds", total=rounds)
        run_id = fleet.submit(ROOT, config)
        begun, done, first = time.monotonic(), 0, 0.0
        looked = begun
        while time.monotonic() - begun < limit:
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                if _finished(fleet, run_id):
                    break
            lines = record.read_bytes().count(b"\n") - 1 if record.exists() else 0
            if lines > done:
                first = first or time.monotonic()
                done = lines
                progress.update(task, completed=done)
                for name, megabytes in _memory(fleet, [device.name for device in devices]).items():
                    samples.setdefault(name, []).append((done, megabytes))
            time.sleep(0.1)
        seconds = (time.monotonic() - first) / max(1, done - 1)
        if done < rounds:
            fleet.stop_run(run_id)
    return samples, seconds


def _finished(fleet: Fleet, run_id: int) -> bool:
    try:
        return fleet.status(run_id).finished
    except FleetError:
        return False  # it is busy; the next look tells


def _memory(fleet: Fleet, devices: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    groups: dict[str, tuple[str, ...]] = {
        "superlink": ("SuperLink",),
        "superexec": ("executor", "ServerApp"),
        **{name: (f"{name}, warm process", f"{name}, SuperNode") for name in devices},
    }
    for group, names in groups.items():
        for name, pid in zip(names, fleet.pids(group), strict=False):
            if (resident := _resident(pid)) is not None:
                found[name] = resident
    return found


def _resident(pid: int) -> float | None:
    """MiB that a process has for itself and shares; None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return next((value / 1024 for value in kilobytes), None)


def slope(samples: list[tuple[int, float]]) -> tuple[float, float]:
    """MiB per 100 rounds over the second half, and its standard error.

    Samples that follow each other are alike; the error is therefore that of the means of ten
    stretches of equal length.
    """
    half = [sample for sample in samples if sample[0] >= samples[-1][0] / 2]
    means = [np.mean(part, axis=0) for part in np.array_split(np.array(half), 10) if len(part)]
    x, y = np.array(means).T
    x = x - x.mean()
    gradient = float(x @ y / (x @ x))
    rest = y - y.mean() - gradient * x
    error = float(np.sqrt(rest @ rest / max(1, len(x) - 2) / (x @ x)))
    return 100 * gradient, 100 * error


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60, help="stop after that many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, seconds = soak(options.rounds, Path(folder), 60 * options.minutes)
    print("| process | first, MiB | last, MiB | slope, MiB per 100 rounds |")
    print("|---|---:|---:|---:|")
    for name, found in samples.items():
        gradient, error = slope(found)
        print(
            f"| {name} | {found[0][1]:.1f} | {found[-1][1]:.1f} | {gradient:+.2f} ± {error:.2f} |"
        )
    last = max(found[-1][0] for found in samples.values())
    print(
        f"\n{last} rounds, {seconds:.2f} s each, evaluation every tenth · flwr {version('flwr')} · "
        f"{footer(COMMAND)}"
    )


if __name__ == "__main__":
    main()
