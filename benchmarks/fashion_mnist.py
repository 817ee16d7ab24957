"""Fashion-MNIST, pairs as published, on a clean split: with and without the private model.

    python -m benchmarks.fashion_mnist [--partition random-pairs] [--seeds 5] [--rounds 60]

40 source clients, 2 classes each, 20 to 40 images, 20 % of them to adapt on. The private model
(20,000 images), the server's set D_s (10,000 images), the sources and the targets share no image.
Each seed partitions the images anew, trains its own private model and starts from its own weights.
The targets number 150 instead of 10, so that the standard error stays under one point. Runs that
are finished are not repeated; their folders hold everything. Settings were chosen on the partition
of seed 100, which is in no table."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import footer
from deploy.pretrain import pretrain_model
from deploy.simulate import simulate
from server_app.private.pretrained import CARD
from server_app.private.settings import PretrainSettings
from server_app.settings import ServerSettings

DATA = {
    "data.name": "fashion-mnist",
    "data.image-size": 28,
    "data.sources": 40,
    "data.targets": 150,
    "data.pretrain-images": 20_000,
    "data.server-images": 10_000,
    "model": "cnn-small",
    "evaluation.every": 10,
    "keep-checkpoints": 1,
    "knowledge.tasks": 1.0,
    "knowledge.cross-entropy": 0.0,
    "knowledge.crd": 0.0,
    "knowledge.batch-size": 128,
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "FedAvg": ("fedavg", {"method": "fedavg"}),
    "Per-FedAvg": (
        "per_fedavg",
        {"method": "per_fedavg", "per_fedavg.beta": 0.1, "per_fedavg.delta": 0.002},
    ),
    "AugFL without the private model": ("without", {"augfl.lambda": 0.0, "augfl.rho": 0.25}),
    "AugFL": ("with", {"augfl.lambda": 1.0, "augfl.rho": 0.25}),
    "Transfer only": ("transfer", {"method": "transfer"}),
}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--partition", default="cyclic-pairs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=[name for name, _ in METHODS.values()])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--label", default="", help="told apart from the runs of the table")
    parser.add_argument("--folder", type=Path, default=Path("runs/fashion-mnist"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for seed in seeds:
        for name, _ in METHODS.values():
            if options.only in (None, name):
                _run(options, seed, name)
    print(table(options, seeds))


def _run(options: argparse.Namespace, seed: int, name: str) -> None:
    from deploy.assignments import parse_assignments

    settings = next(s for n, s in METHODS.values() if n == name)
    run = run_name(options, seed, name)
    if _finished(options.folder / run):
        return
    config = {
        **DATA, **settings, **parse_assignments(options.set), "run-name": run, "seed": seed,
        "data.seed": seed, "data.partition": options.partition, "rounds": options.rounds,
        "resume": (options.folder / run / "run.json").exists(),
    }  # fmt: skip
    server = ServerSettings(
        private_model=str(_private_model(options, seed)),
        runs=options.folder,
        cache=options.folder / "cache",
    )
    simulate(config, server, lambda text: print(f"{run}: {text}", flush=True))


def run_name(options: argparse.Namespace, seed: int, name: str) -> str:
    """Folder of one run."""
    return f"{options.partition}-{options.label or options.rounds}-{seed}-{name}"


def _private_model(options: argparse.Namespace, seed: int) -> Path:
    folder: Path = options.folder / f"private-{seed}"
    if not (folder / CARD).exists():
        config = {**DATA, "data.seed": seed, "data.partition": options.partition}
        pretrain_model(
            folder, config, "cnn-wide", PretrainSettings(epochs=4, batch_size=128), seed=seed
        )
    return folder


def _finished(folder: Path) -> bool:
    path = folder / "run.json"
    return path.exists() and json.loads(path.read_text())["status"] == "finished"


def accuracies(folder: Path) -> dict[int, float]:
    """Round -> accuracy on the targets after adaptation, percent."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        line["round"]: 100 * line["evaluation"]["accuracy_after"]
        for line in lines
        if line.get("evaluation")
    }


def table(options: argparse.Namespace, seeds: range) -> str:
    """Means over the seeds, their standard errors, and the gain paired by seed."""
    curves: dict[str, np.ndarray] = {}
    rounds: list[int] = []
    for title, (name, _) in METHODS.items():
        runs = [accuracies(options.folder / run_name(options, seed, name)) for seed in seeds]
        rounds = sorted(runs[0])
        curves[title] = np.array([[run[r] for r in rounds] for run in runs])
    shown = [r for r in rounds if r in (0, 10, 20, 40, rounds[-1])]
    lines = [
        f"| {options.partition}, {len(seeds)} seeds | "
        + " | ".join(f"round {r}" for r in shown)
        + " | standard error, end |",
        "| --- " * (len(shown) + 2) + "|",
    ]
    for title, curve in curves.items():
        means = " | ".join(f"{curve[:, rounds.index(r)].mean():.2f}" for r in shown)
        error = curve[:, -1].std(ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.nan
        lines.append(f"| {title} | {means} | {error:.2f} |")
    gain = curves["AugFL"] - curves["AugFL without the private model"]
    error = gain[:, -1].std(ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.nan
    behind = [r for i, r in enumerate(rounds) if r and gain[:, i].mean() <= 0]
    lines += [
        "",
        f"Gain through the private model at the end: {gain[:, -1].mean():.2f} points "
        f"(standard error {error:.2f}, paired by seed). "
        + (f"Behind at rounds {behind}." if behind else "Ahead at every evaluated round.")
        + f" Evaluated at {rounds[1]}, {rounds[2]}, ... {rounds[-1]}.",
        "",
        footer(f"python -m benchmarks.fashion_mnist --partition {options.partition} "
               f"--first-seed {seeds[0]} --seeds {len(seeds)} --rounds {options.rounds}"),
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
