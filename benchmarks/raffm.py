"""What slices are worth: accuracy over bytes and memory of mixed devices, served at each width.

    python -m benchmarks.raffm [--seeds 3] [--rounds 40] [--model cnn-small] [--only ...]
    python -m benchmarks.raffm --costs

Of ten devices two can train the whole network, three half of its width and five a quarter. They
are assigned Fashion-MNIST by a Dirichlet distribution; the model is evaluated without adaptation on
twenty clients that never train. All arms have the same local SGD, none is tuned. Each finished run
is kept in a JSON file; a second call goes on from there. Bytes are those that all devices send;
they are sent as many. Memory is that of the largest device (``common/capacity.py``).
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
from client_app.adapt import measure
from client_app.app import app as client_app
from common.capacity import cost
from common.config import DataSettings, parse
from common.data.client import client_data
from common.data.load import load
from common.data.plan import plan
from common.files import read_json, write_json
from common.modelfile import load_model
from common.models import FlatModel
from common.models.widths import cut, groups_of, name_and_width
from common.task import Task
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import run
from server_app.settings import ServerSettings
from server_app.transport.in_process import InProcessGrid

ASSIGNED = [1.0, 0.25, 0.5, 0.25, 0.5, 1.0, 0.25, 0.5, 0.25, 0.25]
WIDTHS = [1.0, 0.5, 0.25]
DATA = {
    "data.name": "fashion-mnist", "data.image-size": 28, "data.partition": "dirichlet",
    "data.dirichlet-alpha": 0.5, "data.sources": len(ASSIGNED), "data.targets": 20,
    "data.samples-min": 10, "data.samples-max": 20, "data.server-images": 0,
    "data.pretrain-images": 0,
}  # fmt: skip
LOCAL = {"raffm.sgd.lr": 0.05, "raffm.sgd.epochs": 2, "raffm.sgd.batch-size": 16}
OWN = {"raffm.assign": ",".join(f"{width:g}" for width in ASSIGNED), "raffm.draw": "own"}
WHOLE = {"raffm.widths": "1"}
ARMS: dict[str, dict[str, Any]] = {
    "all train the whole": WHOLE,
    "all train a quarter": {**WHOLE, "model": "@0.25"},
    "the two large devices alone": {**WHOLE, "only": 1.0},
    "RaFFM, sandwich, by salience": {**OWN, "raffm.draw": "sandwich"},
    "own widths, by salience": OWN,
    "own widths, in random order": {**OWN, "raffm.order": "random"},
    "own widths, never sorted (HeteroFL)": {**OWN, "raffm.order": "none"},
    "own widths, ordered dropout (FjORD)": {**OWN, "raffm.order": "none", "raffm.dropout": True},
}


COUNTED = [
    ("cnn-small", 1, 28), ("resnet18", 3, 32), ("timm:vit_tiny_patch16_224/4", 1, 28),
    ("timm:vit_base_patch16_224", 3, 224), ("open_clip:ViT-B-32", 3, 224),
]  # fmt: skip
"""Models, channels and pixels whose costs are counted."""


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", default="cnn-small")
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path("runs/raffm"))
    parser.add_argument("--costs", action="store_true", help="count what widths cost; no run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.costs:
        print(f"{costs()}\n\n{footer('python -m benchmarks.raffm --costs')}")
        return
    for seed in range(options.seeds):
        for arm in options.only:
            found = measured(options.folder, arm, options.model, options.rounds, seed)
            print(f"{arm}, seed {seed}: {found['served']}", flush=True)
    print(table(options.folder, options.only, options.model, options.rounds, options.seeds))
    command = f"--seeds {options.seeds} --rounds {options.rounds} --model {options.model}"
    print(f"\n{footer(f'python -m benchmarks.raffm {command}')}")


def costs() -> str:
    """What a device sends, holds and computes at each width: counted, not run."""
    lines = [
        "| model | images | width | parameters | MB each way | memory, MB | GFLOP an image |",
        "| --- " * 7 + "|",
    ]
    for name, channels, size in COUNTED:
        for width in WIDTHS:
            one = cost(Task(name, 10, channels, size), width)
            memory = one.memory(LOCAL["raffm.sgd.batch-size"]) / 1e6
            lines.append(
                f"| {name} | {channels} x {size} x {size} | {width:g} | {one.parameters:,} "
                f"| {4e-6 * one.parameters:.2f} | {memory:.1f} | {1e-9 * one.operations:.4f} |"
            )
    return "\n".join(lines)


def table(folder: Path, arms: list[str], model: str, rounds: int, seeds: int) -> str:
    """Accuracy of the whole network and of slices of it, bytes up and memory of each arm."""
    ends = [
        np.mean([measured(folder, arm, model, rounds, n)["curve"][-1][0] for n in range(seeds)])
        for arm in arms
    ]
    budget = float(min(ends))
    lines = [
        f"| {model}, {rounds} rounds, {seeds} seeds | whole | half | quarter | MB up "
        f"| its own after {budget / 1e6:.1f} MB | memory of the largest, MB |",
        "| --- " * 7 + "|",
    ]
    for arm in arms:
        runs = [measured(folder, arm, model, rounds, seed) for seed in range(seeds)]
        served = [_mean([r["served"].get(f"{w:g}") for r in runs]) for w in WIDTHS]
        up = np.mean([r["curve"][-1][0] for r in runs]) / 1e6
        early = _mean([_at(r["curve"], budget) for r in runs])
        row = [arm, *served, f"{up:.1f}", early, f"{runs[0]['memory'] / 1e6:.2f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def measured(folder: Path, arm: str, model: str, rounds: int, seed: int) -> dict[str, Any]:
    """``served``: percent by width; ``curve``: bytes up and percent; ``memory``: bytes."""
    path = folder / "results.json"
    done: dict[str, Any] = read_json(path) if path.exists() else {}
    key = f"{model}/{rounds}/{arm}/{seed}"
    if key not in done:
        done[key] = _run(folder, dict(ARMS[arm]), model, rounds, seed)
        write_json(path, done)
    found: dict[str, Any] = done[key]
    return found


def _run(folder: Path, arm: dict[str, Any], model: str, rounds: int, seed: int) -> dict[str, Any]:
    only = arm.pop("only", None)
    name = model + arm.pop("model", "")
    data = {**DATA, "data.seed": seed}
    config = {
        **default_config(), **data, **LOCAL, **arm, "method": "raffm", "model": name, "seed": seed,
        "rounds": rounds, "run-name": "run", "evaluation.steps": 0, "keep-checkpoints": 1,
        "evaluation.every": max(1, rounds // 10),
    }  # fmt: skip
    settings = parse(DataSettings, {k[5:]: v for k, v in data.items()}, "data.")
    nodes = node_configs(settings)
    if only is not None:
        sources = [node for node, width in zip(nodes, ASSIGNED, strict=False) if width == only]
        nodes = [*sources, *nodes[len(ASSIGNED) :]]
    config["round.nodes"] = len(nodes)
    shutil.rmtree(folder / "run", ignore_errors=True)
    grid = InProcessGrid(client_app, nodes, config)
    found = run(grid, config, ServerSettings(runs=folder, cache=folder / "cache"), lambda _: None)
    lines = [json.loads(line) for line in (found / "metrics.jsonl").read_text().splitlines()]
    whole, _, card = load_model(found / "models" / "last.safetensors")
    task = Task(name, len(card.classes), card.channels, card.image_size)
    up, curve, sizes = 0, list[tuple[int, float]](), dict[float, int]()
    for line in lines:
        up += _training_bytes(line, task, sizes)
        if line.get("evaluation"):
            curve.append((up, 100 * line["evaluation"]["accuracy_after"]))
    batch = LOCAL["raffm.sgd.batch-size"]
    return {
        "served": served(whole, name, settings),
        "curve": curve,
        "memory": cost(task, max(sizes)).memory(batch),
    }


def _training_bytes(line: dict[str, Any], task: Task, sizes: dict[float, int]) -> int:
    """That the clients of a round have sent: four bytes for each parameter of their slices."""
    widths = [entry["width"] for entry in line.get("clients", [])]
    for width in set(widths) - sizes.keys():
        sizes[width] = 4 * cost(task, width).parameters
    return sum(sizes[width] for width in widths)


def served(whole: FlatModel, name: str, settings: DataSettings) -> dict[str, float]:
    """Percent right on the targets' images of the network and of the slices that it has."""
    _, width = name_and_width(name)
    images = load(settings.name, image_size=settings.image_size, channels=settings.channels)
    parts = plan(images.labels, settings)
    clients = [client_data(images, parts.clients[n], n) for n in parts.targets]
    asked = sum(len(client.evaluation[1]) for client in clients)
    found = {}
    values = whole.parameters
    for each in WIDTHS:
        if each > width or (each < width and not groups_of(whole.module)):
            continue
        module = Task(name, len(images.classes), settings.channels, settings.image_size).build()
        network = FlatModel(module)
        network.load_tensors(values)
        small = FlatModel(cut(network.module, each / width))
        vector = small.vector.clone()
        right = sum(measure(small, vector, client, "running")[0] for client in clients)
        found[f"{each:g}"] = 100 * right / asked
    return found


def _at(curve: list[tuple[float, float]], budget: float) -> float:
    """The percentage at a number of bytes, between two evaluations by a straight line."""
    return float(np.interp(budget, [x for x, _ in curve], [y for _, y in curve]))


def _mean(values: list[Any]) -> str:
    if None in values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
