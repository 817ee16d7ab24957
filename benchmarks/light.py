"""What light tuning costs and gives: accuracy over bytes up, of each part that can be trained.

    python -m benchmarks.light [--rounds 10] [--only ...]
    python -m benchmarks.light --ranks

A small vision transformer is pretrained on images of the first five classes of Fashion-MNIST. Ten
devices then train it, or a part of it, on all ten classes, which a Dirichlet distribution gives
them, with images that it has not seen. Of each arm the same learning rates are tried, and the one
is taken that is best on the devices' own test images; reported is the accuracy without adaptation
on twenty clients that never train. Finished runs are kept; a second call goes on from there.

With --ranks it is LoRA of equal and of uneven ranks, averaged by each of the rules of method lora,
at one learning rate: accuracy, and how far the product of the new factors is from the mean product.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import footer
from common.task import Task, hollow
from deploy.pretrain import pretrain_model
from deploy.simulate import simulate
from server_app.private.pretrained import CARD
from server_app.private.settings import PretrainSettings
from server_app.settings import ServerSettings

MODEL = "timm:test_vit/7"
ARMS = {
    "all": "", "head": "+head", "bias": "+bias", "adapter, 8": "+adapter-8",
    "prompt, 10": "+prompt-10", "LoRA, 8 (FedIT)": "+lora-8", "LoRA, 8 (FFA)": "+ffa-8",
}  # fmt: skip
RATES = (0.01, 0.03)
DATA = {
    "data.name": "fashion-mnist", "data.image-size": 28, "data.partition": "dirichlet",
    "data.dirichlet-alpha": 0.5, "data.sources": 10, "data.targets": 20, "data.samples-min": 10,
    "data.samples-max": 20, "data.server-images": 0, "data.pretrain-images": 4000,
    "data.server-classes": 5, "data.test-fraction": 0.25,
}  # fmt: skip
RANKS = {"all 8": "", "8, 4, 2, 1 in turn": "8,4,2,1"}
RULES = {"product": "FlexLoRA", "coverage": "FedIT, rank by rank", "zeros": "with zeros"}
RATE = 0.03
SGD = {"fedavg.sgd.momentum": 0.9, "fedavg.sgd.epochs": 2, "fedavg.sgd.batch-size": 16}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path("runs/light"))
    parser.add_argument("--ranks", action="store_true", help="rules for unlike ranks instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = options.folder / "backbone"
    if not (backbone / CARD).exists():
        pretrain_model(backbone, DATA, MODEL, PretrainSettings(epochs=15))
    if options.ranks:
        print(unlike(options.folder, options.rounds))
    else:
        print(table(options.folder, options.only, options.rounds))
    more = " --ranks" if options.ranks else ""
    print(f"\n{footer(f'python -m benchmarks.light{more} --rounds {options.rounds}')}")


def table(folder: Path, arms: list[str], rounds: int) -> str:
    """Of each arm at its best rate: bytes up, accuracy in the middle and at the end."""
    lines = [
        f"| {MODEL}, {rounds} rounds | trained | kB up a device and round | at first "
        f"| after {rounds // 2} rounds | at the end | learning rate |",
        "| --- " * 7 + "|",
    ]
    for arm in arms:
        runs = {rate: curve(folder, arm, rate, rounds) for rate in RATES}
        best = max(runs, key=lambda rate: runs[rate]["validation"][-1])
        test = runs[best]["test"]
        task = Task(MODEL + ARMS[arm], 10, 1, 28)
        size = sum(parameter.numel() for parameter in hollow(task).parameters())
        row = [arm, f"{size:,}", f"{4e-3 * size:.1f}", *_percent(test), f"{best:g}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def unlike(folder: Path, rounds: int) -> str:
    """Of each rule and each set of ranks: accuracy, and the error of the average."""
    lines = [
        f"| {MODEL}+lora-8, {rounds} rounds | ranks | at first | after {rounds // 2} rounds "
        "| at the end | error in round 1 | in the last round |",
        "| --- " * 7 + "|",
    ]
    for ranks, given in RANKS.items():
        for rule, title in RULES.items():
            if rule == "zeros" and not given:
                continue  # nothing is missing
            sgd = {key.replace("fedavg", "lora"): value for key, value in SGD.items()}
            more = {"lora.average": rule, "lora.ranks": given, "lora.sgd.lr": RATE}
            name = f"{rule}-{given.replace(',', '.') or 8}-{rounds}"
            path = _run(folder, name, "+lora-8", rounds, {"method": "lora", **sgd, **more})
            errors = [f"{line['method']['aggregation_error']:.3f}" for line in _lines(path)[1:]]
            row = [title, ranks, *_percent(_curves(path)["test"]), errors[0], errors[-1]]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def curve(folder: Path, arm: str, rate: float, rounds: int) -> dict[str, list[float]]:
    """Percent right on validation and test images: at first, in the middle and at the end."""
    name = f"{ARMS[arm].removeprefix('+') or 'all'}-{rate:g}-{rounds}"
    how = {"method": "fedavg", **SGD, "fedavg.sgd.lr": rate}
    return _curves(_run(folder, name, ARMS[arm], rounds, how))


def _run(folder: Path, name: str, part: str, rounds: int, how: dict[str, Any]) -> Path:
    path = folder / name
    if not path.exists() or json.loads((path / "run.json").read_text())["status"] != "finished":
        config: dict[str, Any] = {
            **DATA, **how, "model": MODEL + part, "rounds": rounds,
            "pretrained-weights": str(folder / "backbone"), "evaluation.steps": 0,
            "evaluation.who": "both", "evaluation.every": rounds // 2, "keep-checkpoints": 1,
            "run-name": name, "resume": path.exists(),
        }  # fmt: skip
        simulate(config, ServerSettings(runs=folder, cache=folder / "cache"), lambda _: None)
    return path


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def _curves(path: Path) -> dict[str, list[float]]:
    found = {"validation": "evaluation_sources", "test": "evaluation"}
    return {
        kind: [100 * line[key]["accuracy_after"] for line in _lines(path) if line.get(key)]
        for kind, key in found.items()
    }


def _percent(values: list[float]) -> list[str]:
    return [f"{value:.1f}" for value in values]


if __name__ == "__main__":
    main()
