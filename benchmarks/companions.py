"""AugFL beside what it must beat: every method tuned on other partitions, with as many trials.

    python -m benchmarks.companions [--point half] [--seeds 3] [--rounds 30] [--tune 100]

Points: "same", the server knows all classes; "half", it knows five of ten, and so does its private
model; "turned", all its images are turned by a quarter, those of its private model too. A method
has a grid of settings, each of the same length; the best by the mean of the tuning partitions is
what the reported partitions see. Where the best is at the end of the grid, the table says so.
Settings are chosen anew for each number of rounds. "Before" is the model as it is, "one step" has
rate 0.05; "fine-tuned" adapts the same model by the best of a list of steps and rates on the
support set, chosen on the tuning partitions as well. Each finished run is kept in a JSON file; a
second call goes on from there. Gradients are those that one device evaluates in one round, in
passes over its images; a step's length is that of the last round over the model's norm."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from benchmarks.machine import footer
from client_app.adapt import adapt, measure
from common.config import DataSettings
from common.data.client import client_data
from common.data.load import load
from common.data.plan import plan
from common.errors import RunError
from common.files import read_json, write_json
from common.modelfile import load_model
from common.models import FlatModel, build
from deploy.pretrain import pretrain_model
from deploy.simulate import simulate
from server_app.private.pretrained import CARD
from server_app.private.settings import PretrainSettings
from server_app.settings import ServerSettings

SERVER = {"data.pretrain-images": 250, "data.server-images": 150}
POINTS: dict[str, dict[str, Any]] = {
    "same": SERVER,
    "half": {**SERVER, "data.server-classes": 5},
    "turned": SERVER,
}
TASKS = {"knowledge.cross-entropy": 0.0, "knowledge.crd": 0.0, "knowledge.tasks": 1.0}
LABELS = {"knowledge.crd": 0.0}
ANSWERS = {"knowledge.cross-entropy": 0.0, "knowledge.crd": 0.0, "knowledge.kl": 1.0,
           "knowledge.labelled": False}  # fmt: skip
RATES = [0.02, 0.05, 0.1]
LOCAL = [0.1, 0.2, 0.4]
LAMBDAS = [0.2, 1.0, 5.0]
STEPS = (1, 5, 20, 50)
FINE = [(steps, rate) for rate in (0.02, 0.05, 0.1, 0.2) for steps in STEPS]
"""Steps and rates of fine-tuning on the support set, each rate's from the fewest to the most."""

METHODS: dict[str, tuple[dict[str, Any], str, list[Any]]] = {
    "Untrained": ({"method": "fedavg", "rounds": 0}, "fedavg.sgd.lr", [0.05]),
    "FedAvg": ({"method": "fedavg"}, "fedavg.sgd.lr", LOCAL),
    "FedProx": ({"method": "fedprox"}, "fedprox.sgd.lr", LOCAL),
    "Per-FedAvg, 5 steps": ({"method": "per_fedavg"}, "per_fedavg.beta", [0.1, 0.2, 0.4]),
    "Transfer only, tasks": ({"method": "transfer", **TASKS}, "transfer.rate", RATES),
    "Transfer only, labels alone": ({"method": "transfer", **LABELS}, "transfer.rate", RATES),
    "Transfer only, private model alone": (
        {"method": "transfer", **ANSWERS}, "transfer.rate", RATES,
    ),
    "Server first, then FedAvg": ({"method": "fedavg", "first": TASKS}, "fedavg.sgd.lr", LOCAL),
    "AugFL without": ({"augfl.lambda": 0.0}, "augfl.rho", [0.35, 1.0, 3.0]),
    "AugFL, tasks": (TASKS, "augfl.lambda", LAMBDAS),
    "AugFL, labels alone": (LABELS, "augfl.lambda", LAMBDAS),
    "AugFL, R_h of the paper": ({}, "augfl.lambda", LAMBDAS),
    "AugAvg, tasks": ({"method": "augavg", **TASKS}, "augavg.sgd.lr", LOCAL),
    "AugAvg, labels alone": ({"method": "augavg", **LABELS}, "augavg.sgd.lr", LOCAL),
    "AugAvg, private model alone": ({"method": "augavg", **ANSWERS}, "augavg.sgd.lr", LOCAL),
}  # fmt: skip


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--point", choices=POINTS, default="half")
    parser.add_argument("--seeds", type=int, default=3, help="reported partitions: 0, 1, ...")
    parser.add_argument("--tune", type=int, nargs="+", default=[100], help="partitions to tune on")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--folder", type=Path, default=Path("runs/companions"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.folder, options.point, options.rounds)
    rows = []
    for name in options.only:
        rows += bench.rows(name, options.tune, range(options.seeds))
        print(rows[-1], flush=True)
    print("\n".join(bench.heading(options.tune, options.seeds) + rows))
    print("\n" + footer(
        f"python -m benchmarks.companions --point {options.point} --seeds {options.seeds} "
        f"--rounds {options.rounds}"
    ))  # fmt: skip


class Bench:
    """One point of the map at one number of rounds."""

    def __init__(self, folder: Path, point: str, rounds: int) -> None:
        self._folder, self._point, self._rounds = folder, point, rounds
        self._path = folder / "results.json"
        self._done: dict[str, Any] = read_json(self._path) if self._path.exists() else {}

    def heading(self, tune: list[int], seeds: int) -> list[str]:
        """First lines of the table."""
        return [
            f"| {self._point}, {self._rounds} rounds, {seeds} seeds | before | one step "
            f"| fine-tuned | tuned on {len(tune)} partitions, {len(RATES)} trials "
            "| gradients on the device | step |",
            "| --- " * 7 + "|",
        ]

    def rows(self, name: str, tune: list[int], seeds: range) -> list[str]:
        """Tune, run the reported partitions, write the line."""
        _, key, grid = METHODS[name]
        tuned = {value: [self.run(name, value, seed) for seed in tune] for value in grid}
        best = max(grid, key=lambda value: np.mean([run["after"] for run in tuned[value]]))
        end = " (end of the grid)" if len(grid) > 1 and best in (grid[0], grid[-1]) else ""
        runs = [self.run(name, best, seed) for seed in seeds]
        at = max(range(len(FINE)), key=lambda i: np.mean([r["fine"][i] for r in tuned[best]]))
        fine = f"{_mean([r['fine'][at] for r in runs])}, {FINE[at][0]} steps of {FINE[at][1]}"
        return [
            f"| {name} | {_mean([r['before'] for r in runs])} | {_mean([r['after'] for r in runs])}"
            f" | {fine} | {key.rpartition('.')[2]} {best:g}{end} | {_gradients(name):g} "
            f"| {np.mean([r['step'] for r in runs]):.3f} |"
        ]

    def run(self, name: str, value: Any, seed: int) -> dict[str, Any]:
        """Accuracies on the targets of one run, percent, and the length of its last step."""
        key = f"{self._point}/{self._rounds}/{name}/{value}/{seed}"
        if key not in self._done:
            settings, knob, _ = METHODS[name]
            self._done[key] = self._train({**settings, knob: value}, seed)
            write_json(self._path, self._done)
        return self._done[key]

    def _train(self, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        config = {**POINTS[self._point], "data.seed": seed, "seed": seed, "rounds": self._rounds,
                  "evaluation.every": 0, "keep-checkpoints": 1}  # fmt: skip
        if first := settings.get("first"):
            start = self._simulate({**config, "method": "transfer", **first}, seed)
            config["pretrained-weights"] = str(start / "models" / "last.safetensors")
        changes = {key: value for key, value in settings.items() if key != "first"}
        kept = self._folder / "start.safetensors"
        if first:  # the second run takes the folder of the first
            shutil.copy(config["pretrained-weights"], kept)
            config["pretrained-weights"] = str(kept)
        run = self._simulate({**config, **changes}, seed)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last = lines[-1]
        if last["round"] < changes.get("rounds", self._rounds):
            return {"before": 0.0, "after": 0.0, "fine": [0.0] * len(FINE), "step": 0.0}
        vector = load_model(run / "models" / "last.safetensors")[0].vector
        step = last.get("method", {}).get("step_norm", 0.0) / float(vector.norm())
        return {
            "before": 100 * last["evaluation"]["accuracy_before"],
            "after": 100 * last["evaluation"]["accuracy_after"],
            "fine": fine_tuned(vector, config),
            "step": step,
        }

    def _simulate(self, config: dict[str, Any], seed: int) -> Path:
        private = self._folder / f"private-{self._point}-{seed}"
        own = self._folder / f"images-{self._point}-{seed}" if self._point == "turned" else None
        data = {key: config[key] for key in config if key.startswith("data.")}
        if not (private / CARD).exists():
            if own is not None:
                turn(own, data)
            pretrain_model(
                private, data, "cnn-wide", PretrainSettings(), seed=seed,
                images=own and own / "pretrain", console=Console(file=StringIO()),
            )  # fmt: skip
        server = ServerSettings(
            str(private), server_data=own and own / "server", runs=self._folder,
            cache=self._folder / "cache",
        )  # fmt: skip
        shutil.rmtree(self._folder / "run", ignore_errors=True)
        with contextlib.suppress(RunError):  # diverged: counts as nothing
            simulate({**config, "run-name": "run"}, server, lambda _: None)
        return self._folder / "run"


def turn(folder: Path, data: dict[str, Any]) -> None:
    """The server's parts as folders ``pretrain`` and ``server``, turned by a quarter."""
    settings = DataSettings.model_validate({k.removeprefix("data."): v for k, v in data.items()})
    pool = load(settings.name, image_size=settings.image_size, channels=settings.channels)
    parts = plan(pool.labels, settings)
    for name, part in (("pretrain", parts.pretrain), ("server", parts.server)):
        for index in part:
            path = folder / name / pool.classes[int(pool.labels[index])] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = np.rot90(pool.pixels(np.array([index]))[0, 0])
            Image.fromarray(np.ascontiguousarray(turned)).save(path)


def fine_tuned(vector: torch.Tensor, config: dict[str, Any]) -> list[float]:
    """Percent on the targets' query images for each of ``FINE``."""
    data = {k.removeprefix("data."): v for k, v in config.items() if k.startswith("data.")}
    settings = DataSettings.model_validate(data)
    images = load(settings.name, image_size=settings.image_size, channels=settings.channels)
    parts = plan(images.labels, settings)
    model = FlatModel(build("cnn-tiny", classes=10, channels=1, image_size=settings.image_size))
    right, asked, adapted = np.zeros(len(FINE)), 0, vector
    for number in parts.targets:
        client = client_data(images, parts.clients[number], number)
        support = (client.support_images, client.support_labels)
        for at, (steps, rate) in enumerate(FINE):
            begun = 0 if steps == STEPS[0] else FINE[at - 1][0]
            start = adapted if begun else vector
            adapted = adapt(model, start, support, rate, steps - begun)
            right[at] += measure(model, adapted, client, "support")[0]
        asked += len(client.query_labels)
    return (100 * right / asked).tolist()


def _gradients(name: str) -> float:
    """Passes over a device's images in one round; of its support set, a fifth, and its query set.

    FedAvg and AugAvg: five passes. Per-FedAvg: five times support, query and twice support. AugFL:
    once that.
    """
    if name == "Untrained":
        return 0.0
    if ("Fed" in name and not name.startswith("Per")) or name.startswith("AugAvg"):
        return 5.0
    if name.startswith("Per"):
        return 5 * (0.8 + 3 * 0.2)
    return 0.8 + 3 * 0.2 if name.startswith("AugFL") else 0.0


def _mean(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
