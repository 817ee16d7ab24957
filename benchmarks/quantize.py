"""Eight bits: size, time for one image and accuracy, before and after.

Networks are trained on 1,200 of scikit-learn's digits, of 32 x 32 pixels; half of the other 597
calibrate and half measure.

    python -m benchmarks.quantize --models cnn-small mobilenet_v2 resnet18 --epochs 4
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.machine import footer
from common.data.load import load
from common.errors import ModelError
from common.modelfile import Card
from common.models import build
from common.packaged import onnx_bytes
from deploy.quantize import quantize

COMMAND = "python -m benchmarks.quantize"
TRAINED, SIZE = 1200, 32


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["cnn-small", "mobilenet_v2", "resnet18"])
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| model | MB | MB int8 | ms | ms int8 | % right | % right int8 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        images = _pictures(Path(folder, "images"))
        for name in options.models:
            print(_line(name, options.epochs, Path(folder), images), flush=True)
    print(f"\n{footer(COMMAND)}")


def _line(name: str, epochs: int, folder: Path, images: Path) -> str:
    path = folder / "model.onnx"
    path.write_bytes(_trained(name, epochs))
    try:
        found = quantize(path, images, folder / "small.onnx", most_lost=1.0)
    except ModelError as error:
        return f"| {name} | {error} |"
    before, after = found.before, found.after
    return (
        f"| {name} | {before.bytes / 1e6:.2f} | {after.bytes / 1e6:.2f} | "
        f"{before.milliseconds:.2f} | {after.milliseconds:.2f} | "
        f"{100 * before.accuracy:.1f} | {100 * after.accuracy:.1f} |"
    )


def _trained(name: str, epochs: int) -> bytes:
    torch.manual_seed(0)
    pool = load("digits", image_size=SIZE, channels=1)
    images, labels = pool.tensors(np.arange(TRAINED))
    module = build(name, classes=10, channels=1, image_size=SIZE, seed=0).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(TRAINED).split(40):
            optimizer.zero_grad()
            F.cross_entropy(module(images[rows]), labels[rows]).backward()
            optimizer.step()
    card = Card(
        name, pool.classes, 1, SIZE, pool.mean, pool.std, 0.1, 1, "running", "none", "benchmark"
    )
    return onnx_bytes(module.eval(), card)


def _pictures(folder: Path) -> Path:
    pool = load("digits", image_size=SIZE, channels=1)
    for index in range(TRAINED, len(pool)):
        place = folder / pool.classes[pool.labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        pixels = pool.pixels(np.asarray([index]))[0, 0]
        Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


if __name__ == "__main__":
    main()
