"""Digits: with and without the private model, and what rho and lambda do, fixed and adaptive.

    python -m benchmarks.digits gain      # ten partitions
    python -m benchmarks.digits rho       # a grid of rho and lambda, three partitions

In one process: 6 sources and 18 targets, random class pairs, 20 rounds. Each seed partitions the
images anew and trains its own private model. Settings were chosen on the partitions of seeds 11 to
16; the tables use others. Accuracy is that of the targets after one adaptation step."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.machine import footer
from common.errors import RunError
from deploy.pretrain import pretrain_model
from deploy.simulate import simulate
from server_app.private.settings import PretrainSettings
from server_app.settings import ServerSettings

# Chosen on the partitions of seeds 11 to 16.
CONFIG: dict[str, Any] = {
    "augfl.rho": 0.1,
    "augfl.lambda": 1.0,
    "knowledge.crd": 0.0,
    "knowledge.kl": 1.0,
    "knowledge.kl-temperature": 2.0,
    "knowledge.batch-size": 256,
}
WITHOUT = {"augfl.lambda": 0.0}


def main() -> None:
    """Print one of the tables."""
    torch.set_num_threads(1)
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what not in ("gain", "rho"):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        print(gain(Path(folder)) if what == "gain" else rho(Path(folder)))
    print("\n" + footer(f"python -m benchmarks.digits {what}"))


def gain(folder: Path) -> str:
    """With and without the private model, by round."""
    kinds: dict[str, dict[str, Any]] = {
        "AugFL without the private model": WITHOUT,
        "AugFL": {},
        "Transfer only": {"method": "transfer"},
        "Per-FedAvg": {"method": "per_fedavg"},
        "FedAvg": {"method": "fedavg"},
    }
    curves = {
        title: np.array([accuracies(folder, seed, changes) for seed in range(10)])
        for title, changes in kinds.items()
    }
    lines = ["| | round 5 | round 10 | round 20 | standard error, end |", "| --- " * 5 + "|"]
    for title, curve in curves.items():
        means = " | ".join(f"{curve[:, at].mean():.1f}" for at in (1, 2, 4))
        lines.append(f"| {title} | {means} | {standard_error(curve[:, 4]):.1f} |")
    difference = curves["AugFL"] - curves["AugFL without the private model"]
    lines += [
        "",
        f"Gain through the private model at the end: {difference[:, 4].mean():.1f} points "
        f"(standard error {standard_error(difference[:, 4]):.1f}, 10 partitions, paired); smallest "
        f"mean gain at any evaluated round {difference[:, 1:].mean(0).min():.1f}.",
    ]
    return "\n".join(lines)


def rho(folder: Path) -> str:
    """Accuracy at the end, or that the run did not stay finite."""
    lambdas = (0.0, 1.0, 10.0, 100.0)
    lines = [
        "| rho | kind | " + " | ".join(f"lambda {value:g}" for value in lambdas) + " |",
        "| --- " * (len(lambdas) + 2) + "|",
    ]
    for value in (0.1, 0.35, 0.7, 2.0, 5.0):
        for adaptive in (False, True):
            cells = []
            for lambda_ in lambdas:
                changes = {
                    "augfl.rho": value, "augfl.lambda": lambda_, "augfl.adaptive-rho": adaptive
                }  # fmt: skip
                ends = [accuracies(folder, seed, changes)[-1] for seed in range(3)]
                broken = sum(not np.isfinite(end) for end in ends)
                cells.append(f"{broken} of 3 broke" if broken else f"{np.mean(ends):.1f}")
            kind = "adaptive" if adaptive else "fixed"
            lines.append(f"| {value:g} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def accuracies(
    folder: Path,
    seed: int,
    changes: dict[str, Any],
    architecture: str = "cnn-wide",
    server_data: Path | None = None,
) -> list[float]:
    """Percent on the targets at rounds 0, 5, 10, 15, 20; NaN from where a run ended early.

    Parameters
    ----------
    architecture: of the private model, trained on the server's own images if it is not there yet.
    server_data: folder of the server's images; by default its part of the partition.
    """
    images = changes.get("data.pretrain-images", 500)
    private = folder / f"private-{architecture}-{images}-{seed}"
    quiet = Console(file=StringIO())
    if not private.exists():
        partition = {"data.seed": seed, "data.pretrain-images": images}
        pretrain_model(private, partition, architecture, PretrainSettings(epochs=10), console=quiet)
    name = f"run-{len(list((folder / 'runs').glob('*')))}"
    config = {
        **CONFIG, "rounds": 20, "evaluation.every": 5, "seed": seed, "data.seed": seed,
        "run-name": name, **changes,
    }  # fmt: skip
    server = ServerSettings(
        str(private), str(server_data or ""), runs=folder / "runs", cache=folder / "cache"
    )
    with contextlib.suppress(RunError):  # diverged: what was reached is in the record
        simulate(config, server, lambda _: None)
    record = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    evaluated = [line["evaluation"] for line in map(json.loads, record) if line.get("evaluation")]
    found = [100 * entry["accuracy_after"] for entry in evaluated]
    return found + [np.nan] * (5 - len(found))


def standard_error(values: np.ndarray) -> float:
    """Of a mean over partitions."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
