"""What a teacher costs a device: seconds and memory, cached, resident or none; and what it serves.

    python -m benchmarks.fed_lpfm_cost [--model ViT-B-32] [--images 240] [--epochs 5]

One client trains one round of Fed-LPFM. Each row is a process of its own, whose peak is what the
kernel counted; "after importing" is the same process before it has done anything. The teacher has
the full size of a public model and random weights, on which neither time nor memory depends.

"resident" keeps the teacher in memory and asks it anew for every batch, as a direct implementation
does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fed_lpfm_runs import print_table
from benchmarks.machine import footer

KINDS = ("no teacher", "cached, first round", "cached, later rounds", "resident")
PROXIES = ("cnn-small", "mobilenet_v2", "resnet18")
SIZE = 28


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(_child(asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_teacher(Path(folder), asked.model)
        rows = {}
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.fed_lpfm_cost", "--child", kind]
            command += ["--folder", folder, "--model", asked.model]
            command += ["--images", str(asked.images), "--epochs", str(asked.epochs)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            numbers = json.loads(done.stdout.splitlines()[-1])
            rows[kind] = [f"{numbers[k]:.1f}" for k in ("seconds", "import_mib", "peak_mib")]
        head = ["teacher", "round, s", "after importing, MiB", "peak, MiB"]
        print(f"One round: {asked.epochs} epochs of {asked.images} images, cnn-small.\n")
        print_table(head, rows)
        print()
        print_table(
            ["model", "parameters", "float32, MB", "one image, ms"],
            {name: _serve(name) for name in PROXIES} | {asked.model: _serve_teacher(asked.model)},
        )
    print("\n" + footer("python -m benchmarks.fed_lpfm_cost"))


def _child(asked: argparse.Namespace) -> dict[str, float]:
    from client_app.methods import fed_lpfm

    device, down = _device(asked)
    before = _peak()
    begun = time.perf_counter()
    if asked.child == "resident":
        _resident(asked, device, down)
    else:
        fed_lpfm.train(down, device)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "import_mib": before, "peak_mib": _peak()}


def _device(asked: argparse.Namespace) -> tuple[Any, Any]:
    from flwr.app import Context, RecordDict

    from client_app.device import Device
    from client_app.memory import Memory
    from client_app.teachers.answers import Teachers
    from common.data.client import ClientData
    from common.models import FlatModel, build
    from server_app.method import Setup
    from server_app.methods.fed_lpfm import Server, Settings

    dice = np.random.default_rng(0)
    pixels = dice.integers(0, 256, (asked.images, 3, SIZE, SIZE), np.uint8)
    images = torch.from_numpy(pixels[:, :1]).float() / 255
    labels = torch.arange(asked.images) % 10
    data = ClientData(images[:10], labels[:10], images[10:], labels[10:], tuple(range(10)), 0)
    model = FlatModel(build("cnn-small", classes=10, channels=1, image_size=SIZE))
    classes = tuple("0123456789")
    teachers = None
    if asked.child.startswith("cached"):
        path = asked.folder / "teachers.toml"
        teachers = Teachers(path, "mnist", classes, labels, lambda _: pixels)
    memory = Memory(Context(1, 1, {}, RecordDict(), {}, 0), None)
    device = Device("source", [data], classes, "", model, memory, teachers=teachers)
    settings = Settings.model_validate({"sgd": {"epochs": asked.epochs}, "lambda": 0.5})
    return device, Server(settings, Setup(model.parameters)).broadcast(1, 0)


def _resident(asked: argparse.Namespace, device: Any, down: Any) -> None:
    """The same training with the teacher beside it, asked for every batch."""
    from client_app.sgd import local_sgd
    from client_app.teachers.clip import Clip
    from client_app.teachers.prompts import texts
    from common.divergence import kl

    source, weights = _source(asked.model, asked.folder)
    clip = Clip(source, weights)
    classifier = clip.classifier(texts("mnist", device.classes))
    images, labels = device.images

    def gradient(vector: torch.Tensor, batch: Any) -> tuple[torch.Tensor, float]:
        seen, answers = batch
        pixels = (seen * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).numpy()
        goal = (clip.scale * clip.embed(pixels) @ classifier.T).clone()
        device.model.load(vector)

        def loss() -> torch.Tensor:
            logits = device.model.module(seen)
            hard = torch.nn.functional.cross_entropy(logits, answers)
            return 0.5 * hard + 0.5 * kl(logits, goal, down.temperature)

        return device.model.gradient(loss)

    local_sgd(torch.tensor(down.model.vector), (images, labels), gradient, down.sgd, seed=0)


def _source(model: str, folder: Path) -> tuple[Any, Path]:
    from client_app.teachers.settings import TeacherSettings
    from client_app.teachers.source import describe

    path = folder / "weights.safetensors"
    return describe(TeacherSettings(model=model, checkpoint=str(path))), path


def _write_teacher(folder: Path, model: str) -> None:
    from safetensors.torch import save_file

    (folder / "weights.safetensors").touch()
    source, path = _source(model, folder)
    network = source.create()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    (folder / "teachers.toml").write_text(
        f'cache = "{folder / "cache"}"\n[[teacher]]\nmodel = "{model}"\ncheckpoint = "{path}"\n',
        encoding="utf-8",
    )


def _serve(name: str) -> list[str]:
    from common.models import build

    network = build(name, classes=10, channels=1, image_size=SIZE).eval()
    return _numbers(network, torch.zeros(1, 1, SIZE, SIZE))


def _serve_teacher(name: str) -> list[str]:
    from client_app.teachers.settings import TeacherSettings
    from client_app.teachers.source import describe

    network = describe(TeacherSettings(model=name, checkpoint=__file__)).create().eval()
    size = network.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    return _numbers(network, torch.zeros(1, 3, size, size), network.encode_image)


def _numbers(network: Any, image: torch.Tensor, run: Any = None) -> list[str]:
    count = sum(p.numel() for p in network.parameters())
    with torch.inference_mode():
        times = []
        for _ in range(12):
            begun = time.perf_counter()
            (run or network)(image)
            times.append(time.perf_counter() - begun)
    return [f"{count:,}", f"{4 * count / 1e6:.1f}", f"{1000 * float(np.median(times[2:])):.2f}"]


def _peak() -> float:
    """Largest resident memory of this process so far, MiB.

    Not from getrusage, which begins with the memory of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this needs Linux: /proc/self/status names no VmHWM")


if __name__ == "__main__":
    main()
