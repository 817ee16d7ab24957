"""Seconds a round: Flower's own devices against warm ones, on this machine, in one go.

A round is two exchanges with every device, as training and evaluation are: the model goes down,
one small backward pass is made, and an array of the model's size comes up. The server's loop, which
looks for replies every 0.05 s, is the same in both cases.

    python -m benchmarks.warm_nodes --nodes 3 10 --megabytes 0 10 --rounds 5

With ``--phases`` it shows instead where the seconds of a warm round go: of a run of FedAvg with an
evaluation in each round, by the run's own record, for a model of 0.02 MB and one of 9 MB.

    python -m benchmarks.warm_nodes --phases --nodes 3 10 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import footer
from common.config import DataSettings
from deploy.bundle import ROOT
from deploy.control import Scalar
from deploy.fleet import Fleet, NodeSpec
from deploy.simulate import node_configs

COMMAND = "python -m benchmarks.warm_nodes"
TRIAL_APP = ROOT / "tests" / "deploy" / "trial_app"
MODELS = {"cnn-tiny": 8, "mobilenet_v2": 32}
"""Model of the run whose phases are shown -> height and width of its images, pixels."""
PHASES = {
    "waiting": "devices are chosen",
    "broadcast": "messages go to the SuperLink",
    "devices": "way to the devices, and their work",
    "replies": "the last reply's way",
    "absorb": "replies are examined and taken in",
    "update": "the server's step",
    "evaluate": "evaluation, there and back",
    "checkpoint": "checkpoint",
}
console = Console(stderr=True, highlight=False)


def seconds_a_round(nodes: int, megabytes: float, rounds: int, warm: bool) -> list[float]:
    """Seconds of each round but the first, in which devices install the app."""
    devices = [NodeSpec(f"node-{number}") for number in range(nodes)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        with Fleet(Path(folder), devices, warm=warm, notice=console.print) as fleet:
            config: dict[str, Scalar] = {
                "plan": "train " * 2 * (rounds + 1),
                "nodes": nodes,
                "floats": max(10, round(megabytes * 1e6 / 4)),
                "quick": warm,
                "out": str(out),
                "deadline": 600.0,
            }
            status = fleet.wait(fleet.submit(TRIAL_APP, config))
        if status.result != "completed":
            raise SystemExit(f"the run {status.result}: {status.details}")
        exchanges = json.loads(out.read_text())["rounds"]
    if any("error" in reply for exchange in exchanges for reply in exchange["replies"]):
        raise SystemExit("a device replied with an error")
    seconds = [exchange["seconds"] for exchange in exchanges]
    return [a + b for a, b in zip(seconds[::2], seconds[1::2], strict=True)][1:]


def seconds_by_phase(nodes: int, model: str, rounds: int) -> tuple[float, dict[str, float]]:
    """Megabytes of a model that go to a device, and the median seconds of each of ``PHASES``.

    One of the devices only evaluates the model. The first round is left out.
    """
    data = DataSettings(sources=nodes - 1, targets=1, samples_min=5, samples_max=8)
    config: dict[str, Scalar] = {
        "rounds": rounds + 1, "run-name": "phases", "round.nodes": nodes, "evaluation.every": 1,
        "data.sources": data.sources, "data.targets": data.targets, "method": "fedavg",
        "data.samples-min": data.samples_min, "data.samples-max": data.samples_max,
        "model": model, "data.image-size": MODELS[model],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        devices = [
            NodeSpec(f"node-{number}", config | {"state-folder": str(home / "devices")})
            for number, config in enumerate(node_configs(data))
        ]
        server = {"AUGFLOWER_RUNS": str(home / "runs"), "OMP_NUM_THREADS": "1"}
        with Fleet(home, devices, server_environment=server, notice=console.print) as fleet:
            status = fleet.wait(fleet.submit(ROOT, config))
        if status.result != "completed":
            raise SystemExit(f"the run {status.result}: {status.details}")
        record = (home / "runs" / "phases" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in record][2:]
    if any(line["missing"] or line["rejected"] for line in lines):
        raise SystemExit("a device did not reply, or its reply was rejected")
    found = [_phases(line) for line in lines]
    megabytes = statistics.median(line["bytes_down"] for line in lines) / nodes / 1e6
    return megabytes, {name: statistics.median(part[name] for part in found) for name in PHASES}


def _phases(line: dict[str, Any]) -> dict[str, float]:
    """The seconds of a round; those of training parted where the last device had its reply."""
    seconds: dict[str, float] = line["seconds"]
    made = max(part["seconds"] for part in line["clients"]) - seconds["broadcast"]
    devices = min(max(made, 0.0), seconds["train"])
    parts = seconds | {"devices": devices, "replies": seconds["train"] - devices}
    return {name: parts[name] for name in PHASES}


def show_phases(nodes: list[int], rounds: int) -> None:
    """Measure where a warm round's seconds go, and print a table in Markdown."""
    columns = []
    for count in nodes:
        for model in MODELS:
            console.print(f"{count} devices, {model}")
            megabytes, seconds = seconds_by_phase(count, model, rounds)
            columns.append((f"{count} devices, {megabytes:.2f} MB", seconds))
    print("| seconds a round | " + " | ".join(title for title, _ in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name, title in PHASES.items():
        print(f"| {title} | " + " | ".join(f"{found[name]:.3f}" for _, found in columns) + " |")
    sums = (f"{sum(found.values()):.3f}" for _, found in columns)
    print("| all | " + " | ".join(sums) + " |")
    command = f"{COMMAND} --phases"
    print(f"\nMedians of {rounds} rounds · flwr {version('flwr')} · {footer(command)}")


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0, 10])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--phases", action="store_true", help="where a warm round's time goes")
    options = parser.parse_args()
    if options.phases:
        show_phases(options.nodes, options.rounds)
        return
    rows = []
    for nodes in options.nodes:
        for megabytes in options.megabytes:
            medians = []
            for warm in (False, True):
                console.print(f"{nodes} devices, {megabytes:g} MB, {'warm' if warm else 'stock'}")
                found = seconds_a_round(nodes, megabytes, options.rounds, warm)
                medians.append(statistics.median(found))
            stock, quick = medians
            rows.append(
                f"| {nodes} | {megabytes:g} | {stock:.2f} | {quick:.2f} | {stock / quick:.1f} |"
            )
    print("| devices | model, MB | stock, s a round | warm, s a round | times faster |")
    print("|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    print(f"\nMedian of {options.rounds} rounds · flwr {version('flwr')} · {footer(COMMAND)}")


if __name__ == "__main__":
    main()
