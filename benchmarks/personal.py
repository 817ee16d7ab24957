"""PFLlib's Fashion-MNIST benchmark: personal methods at its settings, beside its published figures.

    python -m benchmarks.personal [--partition practical] [--seeds 1] [--rounds 10] [--only ...]
    python -m benchmarks.personal --data digits --seeds 3 --rounds 50

20 clients have all 70,000 images, a quarter of them to test on: "practical" by the published counts
of Dir(0.1), "pathological" two classes each. PFLlib's 4-layer CNN, batches of 10, one local epoch a
round, rate 0.005, all clients in every round. The score is the mean over all clients' test images,
of the model that each client would use. A published figure is the best of 2,000 rounds, mean of
three runs, of a curve over test images; beside it stand the best and the last of the rounds that
were run here. Settings are the ones that PFLlib's authors use where they say so, else the
method's default; nothing was tuned.

"digits" is the same in small: 20 clients have all 1,797 digits of 8 x 8 pixels, by draws from
Dir(0.1) or two classes each; the network is cnn-tiny and the rate 0.05.

All methods get the same number of rounds: with --rounds 3, then 10, runs that ended at 3 go on.
Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import footer
from deploy.simulate import DEVICES, simulate
from server_app.settings import ServerSettings

DATA = {
    "data.targets": 0, "data.pretrain-images": 0, "data.server-images": 0,
    "data.test-fraction": 0.25, "evaluation.who": "sources", "evaluation.steps": 0,
    "evaluation.every": 1, "keep-checkpoints": 1, "round.deadline": 36_000.0,
}  # fmt: skip
SETS: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"data.image-size": 28, "data.sources": 20, "model": "cnn-5x5"},
    "digits": {
        "data.image-size": 8, "data.sources": 20, "model": "cnn-tiny", "data.dirichlet-alpha": 0.1
    },
}  # fmt: skip
RATES = {"fashion-mnist": 0.005, "digits": 0.05}
PARTITIONS = {
    "practical": {"fashion-mnist": "pfllib-dir01", "digits": "pfllib-dirichlet"},
    "pathological": dict.fromkeys(SETS, "pfllib-pathological"),
}
SGD = {"sgd.batch-size": 10, "sgd.epochs": 1}
METHODS: dict[str, tuple[str, dict[str, Any], tuple[float, float] | None]] = {
    "Local": ("local", {}, None),
    "FedAvg": ("fedavg", {}, (85.85, 80.41)),
    "FedProx": ("fedprox", {"mu": 0.001}, (85.63, 78.08)),
    "Ditto": ("ditto", {"own-epochs": 1}, (97.47, 99.44)),
    "FedPer": ("fedper", {}, (97.44, 99.47)),
    "FedRep": ("fedrep", {"head-epochs": 1}, (97.56, 99.56)),
    "FedALA": ("fedala", {}, (97.66, 99.57)),
    "FedDBE": ("feddbe", {}, (97.69, 99.74)),
    "GPFL": ("gpfl", {}, (97.81, 99.85)),
    "FedCP": ("fedcp", {}, (97.89, 99.66)),
    "MOON": ("moon", {}, None),
    "pFedMe": ("pfedme", {}, (97.25, 99.35)),
}
"""Title -> method, its settings beside local SGD, published accuracy: practical, pathological."""


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=SETS, default="fashion-mnist")
    parser.add_argument("--partition", choices=PARTITIONS, default="practical")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--folder", type=Path, default=Path("runs/personal"))
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        for seed in range(options.seeds):
            for title in options.only:
                run(options, title, seed)
    print(table(options))


def run(options: argparse.Namespace, title: str, seed: int) -> None:
    """One run, from where it is to ``options.rounds``."""
    method, settings, _ = METHODS[title]
    name, folder = f"{options.partition}-{seed}-{method}", options.folder / options.data
    place: Path = folder / name
    done = place / "run.json"
    if done.exists():
        found = json.loads(done.read_text())
        if found["status"] == "finished" and found["settings"]["rounds"] >= options.rounds:
            return
    elif place.exists():  # it was killed before it began
        shutil.rmtree(place)
    config = {
        **DATA, **SETS[options.data],
        **{f"{method}.{key}": value for key, value in (SGD | settings).items()},
        f"{method}.sgd.lr": RATES[options.data], "data.name": options.data, "method": method,
        "run-name": name, "seed": seed, "data.seed": seed, "resume": done.exists(),
        "data.partition": PARTITIONS[options.partition][options.data], "rounds": options.rounds,
    }  # fmt: skip
    server = ServerSettings(runs=folder, cache=options.folder / "cache")
    memory = folder / DEVICES / name
    memory.mkdir(parents=True, exist_ok=True)
    simulate(config, server, lambda text: print(f"{name}: {text}", flush=True), memory=memory)


def scores(folder: Path) -> list[tuple[float, float, float]]:
    """Round by round from 0: accuracy over images, over clients, and of the commonest class."""
    found = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        if part := json.loads(line).get("evaluation_sources"):
            over = part["over_clients"]["accuracy_after"]
            found.append((part["accuracy_after"], over, part["accuracy_commonest"]))
    return [(100 * images, 100 * over, 100 * common) for images, over, common in found]


def table(options: argparse.Namespace) -> str:
    """Best and last of ``options.rounds``, of the methods that have run them."""
    curves: dict[str, np.ndarray] = {}
    for title in options.only:
        folders = [
            options.folder / options.data / f"{options.partition}-{seed}-{METHODS[title][0]}"
            for seed in range(options.seeds)
        ]
        runs = [scores(path) for path in folders if (path / "metrics.jsonl").exists()]
        long = [run[1 : options.rounds + 1] for run in runs if len(run) > options.rounds]
        if long:
            curves[title] = np.array(long)
    lines = [
        f"| {options.data}, {options.partition} | seeds | rounds | best | last "
        "| last, mean over clients | published best of 2,000 |",
        "| --- " * 7 + "|",
    ]
    which = list(PARTITIONS).index(options.partition)
    for title, curve in curves.items():
        published = METHODS[title][2] if options.data == "fashion-mnist" else None
        best = curve[:, :, 0].max(1)
        spread = f" ± {best.std(ddof=1):.2f}" if len(best) > 1 else ""
        lines.append(
            f"| {title} | {len(curve)} | {curve.shape[1]} | {best.mean():.2f}{spread} "
            f"| {curve[:, -1, 0].mean():.2f} | {curve[:, -1, 1].mean():.2f} "
            f"| {f'{published[which]:.2f}' if published else '-'} |"
        )
    if curves:
        commonest = np.mean([curve[:, 0, 2].mean() for curve in curves.values()])
        lines.append(f"| the client's commonest class | | | {commonest:.2f} | | | - |")
    command = f"python -m benchmarks.personal --data {options.data} --partition {options.partition}"
    return "\n".join(
        [*lines, "", footer(f"{command} --seeds {options.seeds} --rounds {options.rounds}")]
    )


if __name__ == "__main__":
    main()
