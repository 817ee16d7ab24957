"""Seconds and CPU of a round by the number of devices, with and without a database.

A real SuperLink, executor and ServerApp on this machine; the devices are those of
``fake_devices.py``, all in one process, and some real ones beside them if wanted. FedAvg; the model
has the size of the architecture. All share the machine, so trust ratios and CPU seconds.

    python -m benchmarks.fleet_size --devices 10 50 --state memory database
    python -m benchmarks.fleet_size --devices 50 --state database --without database
    python -m benchmarks.fleet_size --devices 50 --model resnet8x4-gn --size 32
    python -m benchmarks.fleet_size --devices 200 --fraction 0.1
    python -m benchmarks.fleet_size --devices 2000 --idle 60 --state memory database
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.machine import footer
from common.errors import FleetError
from deploy.bundle import ROOT
from deploy.control import Scalar
from deploy.environment import flower_environment
from deploy.fleet import Fleet, NodeSpec
from deploy.processes import Process, stop_all

COMMAND = "python -m benchmarks.fleet_size"
CLASSES = ("x", "y")
CALLS = frozenset(
    {
        "RegisterNode", "ActivateNode", "SendNodeHeartbeat", "PullMessages", "GetRun", "GetFab",
        "PullObject", "ConfirmMessageReceived", "PushMessages", "PushObject",
    }
)  # fmt: skip
STATUS = 3.0
"""Seconds between two questions whether the run has ended."""
console = Console(stderr=True, highlight=False)
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Size:
    """What is measured.

    Attributes
    ----------
    devices, real: fake devices, and real ones beside them.
    database: the SuperLink's state in a file, as in every kit.
    without: adaptations of the SuperLink that are left out.
    fraction: share of the devices asked a round.
    """

    devices: int
    database: bool = False
    without: str = ""
    rounds: int = 4
    model: str = "cnn-tiny"
    image_size: int = 28
    fraction: float = 1.0
    real: int = 0


@dataclass
class Found:
    """What was found; all seconds are a round's, the median over all rounds but the first.

    Attributes
    ----------
    seconds: wall time by phase, as in the run's record.
    round: wall time from one line of the record to the next.
    enrolment: seconds from the submission to the first line of the record.
    link, app: CPU seconds of the SuperLink, and of the executor with the ServerApp.
    memory: resident MiB of the two at the end.
    failed: calls of fake devices that ended with an error, by code and reason.
    lost: fake devices whose loop ended.
    early: parts that a fake device asked for before they were there, a round.
    calls: of fake devices, a device and round.
    missing, rejected: replies.
    logs: output of each real device.
    """

    seconds: dict[str, float]
    round: float
    enrolment: float
    link: float
    app: float
    memory: tuple[float, float]
    failed: dict[str, int]
    lost: int
    early: float
    calls: float
    missing: int
    rejected: int
    logs: list[str] = field(default_factory=list)


def measure(size: Size) -> Found:
    """Run a fleet of this size and look at its rounds.

    Raises
    ------
    FleetError: a process ended, or the run did not complete.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = {"AUGFLOWER_RUNS": str(home / "runs"), "OMP_NUM_THREADS": "1"}
        real = [_real_device(home, number, size.image_size) for number in range(size.real)]
        with Fleet(
            home, real, database=size.database, without=size.without,
            server_environment=server, notice=console.print,
        ) as fleet:  # fmt: skip
            fakes, stats = _fakes(fleet, home, size.devices)
            try:
                found = _run(fleet, fakes, size, home / "runs" / "fleet" / "metrics.jsonl", stats)
            finally:
                stop_all([fakes], 5)
        found.logs = [fleet.log(device.name).read_text() for device in real]
        return found


@dataclass
class Idle:
    """What devices cost while no run is there.

    Attributes
    ----------
    cpu: share of a core that the SuperLink takes.
    looks, beats: calls for messages, and heartbeats, a second.
    """

    cpu: float
    looks: float
    beats: float
    memory: float
    failed: dict[str, int]
    lost: int


def rest(size: Size, settled: float, seconds: float) -> Idle:
    """Let devices be there, and look from ``settled`` seconds after the last has come on.

    Raises
    ------
    FleetError: a process ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with Fleet(
            home, [], database=size.database, without=size.without, notice=console.print
        ) as fleet:
            fakes, stats = _fakes(fleet, home, size.devices)
            try:
                while not stats.exists() or _read(stats).get("online", 0) < size.devices:
                    fakes.check()
                    time.sleep(0.5)
                console.print(f"{size.devices} devices are there")
                time.sleep(settled)
                link = fleet.pids("superlink")
                before, cpu, begun = _read(stats), _cpu(link), time.monotonic()
                time.sleep(seconds)
                took = time.monotonic() - begun
                after, share = _read(stats), (_cpu(link) - cpu) / took
                fakes.check()
                calls = {name: (after[name] - before.get(name, 0)) / took for name in after}
                return Idle(
                    share, calls["PullMessages"], calls.get("SendNodeHeartbeat", 0.0),
                    _memory(link), _failed(after), after["ended"],
                )  # fmt: skip
            finally:
                stop_all([fakes], 5)


def _fakes(fleet: Fleet, home: Path, devices: int) -> tuple[Process, Path]:
    stats = home / "stats.json"
    fakes = Process(
        "fake devices",
        [sys.executable, "-m", "benchmarks.fake_devices", fleet.fleet_address, str(devices),
         "--classes", ",".join(CLASSES), "--stats", str(stats)],
        flower_environment(home / "fakes", 1), fleet.log("fakes"),
    )  # fmt: skip
    fakes.start()
    return fakes, stats


def _read(stats: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads(stats.read_text())
    return found


def _failed(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name.partition(" ")[0].isupper()}


def _real_device(home: Path, number: int, size: int) -> NodeSpec:
    images, random = home / f"images-{number}", np.random.default_rng(number)
    for label in CLASSES:
        (images / label).mkdir(parents=True)
        for name in range(10):
            pixels = random.integers(0, 255, (size, size), np.uint8)
            Image.fromarray(pixels).save(images / label / f"{name}.png")
    return NodeSpec(f"real-{number}", {"data-folder": str(images), "role": "source"})


def _run(fleet: Fleet, fakes: Process, size: Size, record: Path, stats: Path) -> Found:
    nodes = size.devices + size.real
    config: dict[str, Scalar] = {
        "method": "fedavg", "rounds": size.rounds + 1, "run-name": "fleet", "model": size.model,
        "data.name": "folder", "data.class-names": ",".join(CLASSES), "evaluation.every": 0,
        "data.image-size": size.image_size, "round.nodes": nodes, "round.wait": 1200.0,
        "round.fraction": size.fraction,
    }  # fmt: skip
    marks: list[tuple[float, float, float]] = []
    counts: list[dict[str, int]] = []

    def look() -> None:
        fakes.check()
        lines = record.read_bytes().count(b"\n") if record.exists() else 0
        if lines > len(marks):
            link, app = fleet.pids("superlink"), fleet.pids("superexec")
            marks.extend([(time.monotonic(), _cpu(link), _cpu(app))] * (lines - len(marks)))
            counts.append(_read(stats))
            memory[:] = [_memory(link), _memory(app)]
            console.print(f"line {lines} of the record")

    memory: list[float] = []
    begun = asked_for = time.monotonic()
    run = fleet.submit(ROOT, config)
    # Each question for the status is one more call that the SuperLink has to answer.
    while time.monotonic() - asked_for < STATUS or not (status := fleet.status(run)).finished:
        asked_for = time.monotonic() if time.monotonic() - asked_for >= STATUS else asked_for
        look()
        time.sleep(0.05)
    look()
    if status.result != "completed":
        raise FleetError(f"the run {status.result}: {status.details}")
    # The first line is of the model before any training, the second of the first round.
    rounds = [json.loads(line) for line in record.read_text().splitlines()][2:]
    steps = [[b - a for a, b in zip(*two, strict=True)] for two in pairwise(marks[1:])]
    wall, link, app = (statistics.median(column) for column in zip(*steps, strict=True))
    last, first = counts[-1], counts[0]
    asked = len(counts) - 1
    between = {name: last.get(name, 0) - first.get(name, 0) for name in last}
    return Found(
        seconds={
            name: statistics.median(line["seconds"].get(name, 0.0) for line in rounds)
            for name in rounds[0]["seconds"]
        },
        round=wall,
        enrolment=marks[0][0] - begun,
        link=link,
        app=app,
        memory=(memory[0], memory[1]),
        failed=_failed(last),
        lost=last["ended"],
        early=between.get("parts asked for too early", 0) / asked,
        calls=sum(between.get(name, 0) for name in CALLS) / (size.devices * size.fraction) / asked,
        missing=sum(len(line["missing"]) for line in rounds),
        rejected=sum(len(line["rejected"]) for line in rounds),
    )


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds of processes, and of their children that have ended."""
    total = 0
    for pid in pids:
        try:
            total += sum(
                map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])
            )
        except OSError:
            continue
    return total / _TICK


def _memory(pids: Sequence[int]) -> float:
    """Resident MiB of the largest of some processes."""
    pages = [0]
    for pid in pids:
        try:
            pages.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]))
        except OSError:
            continue
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


HEAD = (
    "| devices | state | without | enrolment, s | broadcast | train | round, s "
    "| SuperLink, CPU s | ServerApp, CPU s | MiB | calls a device | too early | failed calls |\n"
    "|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)


HEAD_IDLE = (
    "| devices | state | without | idle for, s | SuperLink, of a core | looks a second "
    "| heartbeats a second | MiB | failed calls |\n|---:|---|---|---:|---:|---:|---:|---:|---|"
)


def row(size: Size, found: Found) -> str:
    """A line of the table in Markdown."""
    state = "database" if size.database else "memory"
    failed = "; ".join(f"{count} {name}" for name, count in sorted(found.failed.items())) or "none"
    if found.lost or found.missing or found.rejected:
        failed += f"; {found.lost} lost, {found.missing} missing, {found.rejected} rejected"
    real = f" + {size.real} real" if size.real else ""
    share = f" ({size.fraction:.0%})" if size.fraction < 1 else ""
    return (
        f"| {size.devices}{real}{share} | {state} | {size.without or '-'} | {found.enrolment:.0f} "
        f"| {found.seconds['broadcast']:.1f} | {found.seconds['train']:.1f} | {found.round:.1f} "
        f"| {found.link:.1f} | {found.app:.1f} | {found.memory[0]:.0f}, {found.memory[1]:.0f} "
        f"| {found.calls:.0f} | {found.early:.0f} | {failed} |"
    )


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--state", nargs="+", choices=["memory", "database"], default=["memory"])
    parser.add_argument("--without", default="", help="adaptations of the SuperLink left out")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default="cnn-tiny")
    parser.add_argument("--size", type=int, default=28, help="height and width of images, pixels")
    parser.add_argument("--fraction", type=float, default=1.0, help="share asked a round")
    parser.add_argument("--real", type=int, default=0, help="real devices beside the fake ones")
    parser.add_argument("--idle", type=float, default=0, help="without a run, so many seconds")
    parser.add_argument("--settled", type=float, default=30, help="seconds before them")
    options = parser.parse_args()
    if options.idle:
        print(HEAD_IDLE)
        for devices in options.devices:
            for state in options.state:
                size = Size(devices, state == "database", options.without)
                found = rest(size, options.settled, options.idle)
                failed = "; ".join(f"{n} {name}" for name, n in sorted(found.failed.items()))
                print(
                    f"| {devices} | {state} | {options.without or '-'} | {options.settled:.0f} "
                    f"| {found.cpu:.1%} | {found.looks:.0f} | {found.beats:.0f} "
                    f"| {found.memory:.0f} | {failed or 'none'}; {found.lost} lost |",
                    flush=True,
                )
        print(f"\nOver {options.idle:.0f} s · flwr {version('flwr')} · {footer(COMMAND)}")
        return
    print(HEAD)
    for devices in options.devices:
        for state in options.state:
            size = Size(
                devices, state == "database", options.without, options.rounds, options.model,
                options.size, options.fraction, options.real,
            )  # fmt: skip
            print(row(size, measure(size)), flush=True)
    print(
        f"\nMedians of {options.rounds} rounds after the first, {options.model} at {options.size} "
        f"pixels · flwr {version('flwr')} · {footer(COMMAND)}"
    )


if __name__ == "__main__":
    main()
