"""Digits: how the gain through the private model moves with D_s and with the model itself.

    python -m benchmarks.knowledge

The setting of ``benchmarks.digits``, 20 rounds, three partitions. Each gain is paired with a
run without the private model on the same partition. D_s "of another domain" are the same images
changed on purpose; its labels stay right.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from benchmarks.digits import accuracies, standard_error
from benchmarks.machine import footer
from common.config import DataSettings
from common.data.load import load
from common.data.plan import plan

SEEDS = range(3)
Pixels = NDArray[np.uint8]


def inverted(pixels: Pixels, dice: np.random.Generator) -> Pixels:
    """Dark on light instead of light on dark."""
    return 255 - pixels


def noisy(pixels: Pixels, dice: np.random.Generator) -> Pixels:
    """Noise of a fifth of the range."""
    return np.clip(pixels + dice.normal(0, 51, pixels.shape), 0, 255).astype(np.uint8)


def noise(pixels: Pixels, dice: np.random.Generator) -> Pixels:
    """No picture at all."""
    return dice.integers(0, 256, pixels.shape, np.uint8)


def same(pixels: Pixels, dice: np.random.Generator) -> Pixels:
    """As they are."""
    return pixels


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    progress = Console(stderr=True)
    print("| D_s | private model | accuracy | gain | standard error |")
    print("| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        without = cache(
            lambda seed, images: accuracies(
                folder, seed, {"augfl.lambda": 0.0, "data.server-images": images}
            )[-1]
        )

        def row(title: str, model: str, images: int = 300, **options: Any) -> None:
            changes = {"data.server-images": images, **options.pop("changes", {})}
            change: Callable[..., Pixels] | None = options.pop("change", None)
            classes = options.pop("classes", 10)
            ends = []
            for seed in SEEDS:
                progress.print(f"{title}, {model}: partition {seed}")
                own = _folder(folder, seed, change, classes) if change else None
                ends.append(accuracies(folder, seed, changes, server_data=own, **options)[-1])
            gains = np.array(ends) - [without(seed, images) for seed in SEEDS]
            print(
                f"| {title} | {model} | {np.mean(ends):.1f} | {gains.mean():.1f} | "
                f"{standard_error(gains):.1f} |",
                flush=True,
            )

        for images in (50, 100, 300, 400):
            row(f"{images} images", "cnn-wide", images)
        row("300, labels unused", "cnn-wide", changes={"knowledge.labelled": False})
        row("300, five of ten classes", "cnn-wide", change=same, classes=5)
        row("300, noisy", "cnn-wide", change=noisy)
        row("300, inverted", "cnn-wide", change=inverted)
        row("300, pure noise", "cnn-wide", change=noise)
        for architecture in ("cnn-tiny", "cnn-small"):
            row("300 images", architecture, architecture=architecture)
        for few in (100, 200):
            changes = {"data.pretrain-images": few}
            row("300 images", f"cnn-wide, trained on {few}", changes=changes)
    print("\n" + footer("python -m benchmarks.knowledge"))


def _folder(
    root: Path, seed: int, change: Callable[[Pixels, np.random.Generator], Pixels], classes: int
) -> Path:
    """The partition's D_s as a folder of images, changed; only the first ``classes`` classes."""
    settings = DataSettings.model_validate({"seed": seed})
    pool = load(settings.name, image_size=settings.image_size, channels=settings.channels)
    folder, dice = root / f"{change.__name__}-{classes}-{seed}", np.random.default_rng(seed)
    for index in plan(pool.labels, settings).server:
        label = int(pool.labels[index])
        if label < classes:
            picture = change(pool.pixels(np.array([index]))[0, 0], dice)
            target = folder / pool.classes[label] / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(target)
    return folder


if __name__ == "__main__":
    main()
