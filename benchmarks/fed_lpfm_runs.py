"""Runs of Fed-LPFM and its rivals on Fashion-MNIST, shared by the tables beside this file.

Clients train a small CNN in one process, over the same wire as a fleet: ten of them in the class
split, five in the Dirichlet partitions, because at 0.01 a class goes to hardly more than one client
and ten classes do not reach ten clients. A client holds 40 images of each of its classes in the
class split, and 20 times the number of its classes at most in the others. The proxy sees them at
14x14 pixels unless told otherwise, which costs a quarter of the time of 28x28. The model is
evaluated on a balanced test set of 2,000 images (the server's part of the plan, which no client
holds), as it is after the last round. Teachers are small CLIP models trained on a third part of the
data set (see deploy/train_teacher.py), anew for each seed, so that no teacher has seen a test
image.

Every method's settings are chosen on a partition that no table reports
(benchmarks/fed_lpfm_choose.py).
Finished runs are kept in the folder and not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import footer
from client_app.app import app
from common.config import DataSettings
from common.data.load import load
from common.data.plan import server_parts
from common.files import write_atomic
from deploy.export import load_packaged
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from deploy.train_teacher import Backbone, train_teacher
from server_app.settings import ServerSettings
from server_app.transport.in_process import InProcessGrid

SAMPLES = 40
"""Images of each class that a client of the class split holds."""

TAUGHT = 1500
"""Images that a teacher has seen, if nothing else is said."""

PARTITIONS: dict[str, dict[str, Any]] = {
    **{
        f"{n} class{'es' * (n > 1)}": {
            "partition": "pathological",
            "classes-per-client": n,
            "samples-min": SAMPLES,
            "samples-max": SAMPLES,
            "sources": 10,
        }
        for n in (1, 2)
    },
    **{
        f"Dirichlet {alpha}": {
            "partition": "dirichlet",
            "dirichlet-alpha": alpha,
            "samples-min": 20,
            "samples-max": SAMPLES // 2,
            "sources": 5,
        }
        for alpha in (0.01, 0.1, 1.0)
    },
}
DATA = {
    "name": "fashion-mnist", "channels": 1, "targets": 0,
    "server-images": 2000, "pretrain-images": TAUGHT,
}  # fmt: skip
LOCAL = {"sgd.lr": 0.03, "sgd.momentum": 0.9, "sgd.batch-size": 10}
"""Of every method; momentum and the length of a round are not in the paper."""

CHOSEN: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "fml": {},
    "fed_lpfm": {"sgd.weight-decay": 0.0, "decay-epoch": 0},
}
"""Of one method. Fed-LPFM does without its weight decay, which its rivals do not have."""


@dataclass(frozen=True)
class Options:
    """What all tables are asked with."""

    folder: Path
    seeds: tuple[int, ...]
    rounds: int
    epochs: int
    teacher_epochs: int
    image_size: int


@dataclass(frozen=True)
class Score:
    """Accuracy on the balanced test set, and on its worst class; from 0 to 1."""

    accuracy: float
    worst: float


def options(description: str, rounds: int = 15, seeds: tuple[int, ...] = (0, 1, 2)) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, default=Path("runs/fed_lpfm"))
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--epochs", type=int, default=2, help="local, in each round")
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=14)
    asked = parser.parse_args()
    seeds = tuple(asked.seeds)
    return Options(
        asked.folder, seeds, asked.rounds, asked.epochs, asked.teacher_epochs, asked.image_size
    )


def closing(asked: Options, module: str) -> str:
    """What stands beneath a table: how it was made, where and when."""
    seeds = " ".join(map(str, asked.seeds))
    command = f"python -m benchmarks.{module} --seeds {seeds}"
    command += (
        f" --rounds {asked.rounds} --epochs {asked.epochs} --teacher-epochs {asked.teacher_epochs}"
    )
    command += f" --image-size {asked.image_size}"
    return "Mean ± sample standard deviation over the seeds.\n\n" + footer(command)


def data_of(asked: Options, partition: str, seed: int) -> dict[str, Any]:
    """The run's data settings by dotted name."""
    values = {**DATA, **PARTITIONS[partition], "image-size": asked.image_size, "seed": seed}
    return {f"data.{key}": value for key, value in values.items()}


def teacher(
    asked: Options, backbone: Backbone, seed: int, images: int = TAUGHT, number: int = 0
) -> tuple[Path, float]:
    """Folder of a teacher of this seed, and its zero-shot accuracy on the test set.

    Parameters
    ----------
    number: tells apart teachers of one backbone, which differ by their initialisation.
    """
    folder = (
        asked.folder / "teachers" / f"{backbone}-{images}-{asked.teacher_epochs}-{seed}.{number}"
    )
    notes = folder / "accuracy.json"
    if not notes.exists():
        pool = load("fashion-mnist", channels=3)
        shown, tested, _ = server_parts(pool.labels, _settings("2 classes", seed))
        done = train_teacher(
            folder, backbone, pool, shown[:images], tested,
            epochs=asked.teacher_epochs, seed=1000 * seed + number,
        )  # fmt: skip
        notes.write_text(json.dumps(done.accuracy), encoding="utf-8")
    return folder, float(json.loads(notes.read_text(encoding="utf-8")))


def table(folder: Path, **more: Any) -> str:
    """One teacher's part of a teachers file."""
    lines = [f'model = "local-dir:{folder.absolute()}"']
    lines += [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in more.items()]
    return "[[teacher]]\n" + "\n".join(lines) + "\n"


def for_all(*folders: Path, **more: Any) -> Callable[[int], str]:
    """The same teachers for every client, as ``run`` takes them."""
    text = "".join(table(folder, **more) for folder in folders)
    return lambda _: text


def run(
    asked: Options,
    method: str,
    partition: str,
    seed: int,
    teachers: Callable[[int], str] = lambda _: "",
    **settings: Any,
) -> Score:
    """Train with one method, or find the run, and evaluate the model.

    Parameters
    ----------
    teachers: client -> its teachers file without the cache; an empty text leaves it without one.
    settings: of the method, instead of ``LOCAL`` and ``CHOSEN``.

    Raises
    ------
    FleetError: the run diverged, until the server took no reply any more.
    """
    own = {
        **LOCAL,
        "sgd.epochs": asked.epochs,
        **CHOSEN[method],
        **{key.replace("_", "-"): value for key, value in settings.items()},
    }
    config: dict[str, Any] = {
        "method": method, "rounds": asked.rounds, "model": "cnn-small", "seed": seed,
        "evaluation.every": 0, "keep-checkpoints": 1, "round.wait": 2.0,
        **data_of(asked, partition, seed),
        **{f"{method}.{key}": value for key, value in own.items()},
    }  # fmt: skip
    nodes = _nodes(asked, partition, seed, teachers)
    name = hashlib.sha256(json.dumps([config, nodes], sort_keys=True).encode()).hexdigest()[:20]
    folder = asked.folder / "runs" / name
    if not (folder / "models" / "last.safetensors").exists():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
        config["run-name"] = name
        grid = InProcessGrid(app, nodes, default_config() | config)
        server = ServerSettings(runs=asked.folder / "runs")
        simulate(config, server, lambda _: None, grid=grid)
    return evaluate(folder / "models" / "last.safetensors", asked, seed)


def evaluate(model: Path, asked: Options, seed: int) -> Score:
    """Accuracy of a model on the balanced test set of a seed."""
    packaged, _ = load_packaged(model)
    images = load("fashion-mnist", image_size=asked.image_size, channels=1)
    chosen = server_parts(images.labels, _settings("2 classes", seed))[1]
    labels = images.labels[chosen]
    with torch.inference_mode():
        answers = packaged(torch.from_numpy(images.pixels(chosen))).argmax(1).numpy()
    of_each = [float((answers[labels == c] == c).mean()) for c in np.unique(labels)]
    return Score(float((answers == labels).mean()), min(of_each))


def cell(scores: Sequence[Score]) -> str:
    """Mean and spread over the seeds, per cent; the worst class in brackets."""
    accuracy = np.array([100 * score.accuracy for score in scores])
    spread = accuracy.std(ddof=1) if len(accuracy) > 1 else 0.0
    worst = np.mean([100 * score.worst for score in scores])
    return f"{accuracy.mean():.1f} ± {spread:.1f} ({worst:.0f})"


def print_table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """A table in Markdown."""
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    for name, cells in rows.items():
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


def _settings(partition: str, seed: int) -> DataSettings:
    return DataSettings.model_validate({**DATA, **PARTITIONS[partition], "seed": seed})


def _nodes(
    asked: Options, partition: str, seed: int, teachers: Callable[[int], str]
) -> list[dict[str, Any]]:
    nodes = node_configs(_settings(partition, seed))
    for client, node in enumerate(nodes):
        text = teachers(client)
        if text:
            cache = f'cache = "{(asked.folder / "cache").absolute()}"\n'
            name = hashlib.sha256(text.encode()).hexdigest()[:20]
            path = asked.folder / "teachers" / f"{name}.toml"
            write_atomic(path, cache + text)
            node["teachers"] = str(path)
    return nodes
