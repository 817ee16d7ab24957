"""Methods for devices with models of their own, on Fashion-MNIST: accuracy, traffic, time.

HtFLlib's setting in small: four architectures are assigned to the clients in turn, images by
Dirichlet(0.1), and each client tests on a quarter of its own that it never trains on. All methods
have the published features of 512 numbers, batches of 10 and one local epoch, and one learning rate
for all, higher than the published 0.01 because rounds are few; what else they have is their
default. Nothing was tuned.

Finished runs are kept in the folder and not repeated; an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import server_app.methods
from benchmarks.machine import footer
from common import registry
from deploy.pretrain import pretrain_generator
from deploy.simulate import simulate
from server_app.runs.folder import META
from server_app.settings import ServerSettings

METHODS = {
    "local": "Local",
    "fml": "FML",
    "lg_fedavg": "LG-FedAvg",
    "fedgen": "FedGen",
    "fedgh": "FedGH",
    "feddistill": "FedDistill",
    "fedkd": "FedKD",
    "fedproto": "FedProto",
    "fedtgp": "FedTGP",
    "fedktl": "FedKTL",
}
DATA = {
    "name": "fashion-mnist", "partition": "dirichlet", "dirichlet-alpha": 0.1, "targets": 0,
    "samples-min": 40, "samples-max": 40, "test-fraction": 0.25, "channels": 1, "image-size": 14,
    "server-images": 0, "pretrain-images": 2000,
}  # fmt: skip
ARCHITECTURES = "cnn-tiny,cnn-small,cnn-wide,resnet8x4-gn"
LOCAL = {"sgd.lr": 0.05, "sgd.momentum": 0.0, "sgd.batch-size": 10, "sgd.epochs": 1}


@dataclass(frozen=True)
class Options:
    """What the table is asked with."""

    folder: Path
    seeds: tuple[int, ...]
    rounds: int
    clients: int
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """One run: accuracy from 0 to 1, bytes of a round over all clients, its seconds."""

    last: float
    best: float
    worst: float
    commonest: float
    up: float
    down: float
    seconds: float


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/heterogeneous"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    given = parser.parse_args()
    asked = Options(
        given.folder, tuple(given.seeds), given.rounds, given.clients, tuple(given.methods)
    )
    found = {method: [run(asked, method, seed) for seed in asked.seeds] for method in asked.methods}
    print_table(found)
    seeds = " ".join(map(str, asked.seeds))
    command = f"--seeds {seeds} --rounds {asked.rounds} --clients {asked.clients}"
    if asked.methods != tuple(METHODS):
        command += f" --methods {' '.join(asked.methods)}"
    print()
    print(footer(f"python -m benchmarks.heterogeneous {command}"))


def run(asked: Options, method: str, seed: int) -> Score:
    """Train with one method, or find the run."""
    data = {**DATA, "sources": asked.clients, "seed": seed}
    config: dict[str, Any] = {
        "method": method, "model": "cnn-small", "own-models": ARCHITECTURES, "seed": seed,
        "rounds": asked.rounds, "evaluation.every": 5, "evaluation.who": "sources",
        "keep-checkpoints": 1, "run-name": f"{method}-{asked.clients}-{asked.rounds}-{seed}",
        **{f"data.{key}": value for key, value in data.items()},
        **{f"{method}.{key}": value for key, value in LOCAL.items()},
    }  # fmt: skip
    folder = asked.folder / config["run-name"]
    server = ServerSettings(runs=asked.folder)
    half = registry.load(server_app.methods, method)
    if half.Settings.model_validate({}).uses_generator:
        generator = asked.folder / f"generator-{seed}"
        if not generator.is_dir():
            pretrain_generator(generator, config, seed=seed)
        server = ServerSettings(runs=asked.folder, generator=str(generator))
    if not (folder / META).exists() or json.loads((folder / META).read_text())["status"] != (
        "finished"
    ):
        config["resume"] = (folder / META).exists()
        memory = asked.folder / "devices" / config["run-name"]
        simulate(config, server, lambda _: None, memory=memory)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return score(lines)


def score(lines: Sequence[Mapping[str, Any]]) -> Score:
    """What a record says of a run; bytes and seconds of rounds in which nobody evaluates."""
    evaluated = [line["evaluation_sources"] for line in lines if line.get("evaluation_sources")]
    plain = [line for line in lines[2:] if "evaluation_sources" not in line]
    last = evaluated[-1]
    return Score(
        last=last["accuracy_after"],
        best=max(each["accuracy_after"] for each in evaluated),
        worst=last["worst_after"],
        commonest=last["accuracy_commonest"],
        up=float(np.median([line["bytes_up"] for line in plain])),
        down=float(np.median([line["bytes_down"] for line in plain])),
        seconds=float(np.median([sum(line["seconds"].values()) for line in plain])),
    )


def print_table(found: Mapping[str, Sequence[Score]]) -> None:
    """In Markdown; means over the seeds."""
    print(
        "| method | last round, % | best round, % | worst client, % | kB up | kB down | s a round |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    some = next(iter(found.values()))
    rows = {METHODS[method]: scores for method, scores in found.items()}
    for name, scores in rows.items():
        last = [100 * each.last for each in scores]
        spread = f" ± {np.std(last, ddof=1):.1f}" if len(last) > 1 else ""
        best, worst, up, down, seconds = (
            np.mean([getattr(each, key) for each in scores])
            for key in ("best", "worst", "up", "down", "seconds")
        )
        print(
            f"| {name} | {np.mean(last):.1f}{spread} | {100 * best:.1f} | {100 * worst:.1f} | "
            f"{up / 1000:.1f} | {down / 1000:.1f} | {seconds:.1f} |"
        )
    commonest = 100 * np.mean([each.commonest for each in some])
    print(f"| the commonest class of each client | {commonest:.1f} | | | | | |")


if __name__ == "__main__":
    main()
