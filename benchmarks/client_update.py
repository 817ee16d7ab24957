"""Time of one client update over the bare gradient evaluations that it needs.

    python -m benchmarks.client_update

"update" is the device's half of AugFL from Down to Up, its memory on disk included; "gradients"
is the same number of forward and backward passes on the same batches and nothing else. The two
take turns in one process; the ratio's median and spread are over the turns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Context, RecordDict

from benchmarks.machine import footer, milliseconds
from client_app.device import Device
from client_app.memory import Memory
from client_app.methods.augfl import train
from common.data.client import ClientData
from common.methods.augfl import Down
from common.models import FlatModel, build
from common.sketch import NUMBERS

TURNS = 15
CASES = [("cnn-small", 28, 1), ("resnet8x4", 28, 1), ("resnet8x4", 32, 3)]


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    print("| model | images | difference | gradients, ms | update, ms | ratio (quartiles) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, size, channels in CASES:
        for difference in ("central", "forward"):
            print(_row(name, size, channels, difference))
    print("\n" + footer("python -m benchmarks.client_update"))


def _row(name: str, size: int, channels: int, difference: str) -> str:
    model = FlatModel(build(name, classes=10, channels=channels, image_size=size))
    data = ClientData(
        torch.randn(6, channels, size, size), torch.randint(10, (6,)),
        torch.randn(24, channels, size, size), torch.randint(10, (24,)), tuple(range(10)), 0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        context = Context(1, 1, {}, RecordDict(), {}, 0)
        memory = Memory(context, Path(folder))
        device = Device("source", [data], tuple("0123456789"), "", model, memory)
        start = model.parameters
        down = Down(1, 0, start, 0.1, 0.05, 0.01, difference, 0, 0, [0.0] * NUMBERS)
        theta = torch.tensor(start.vector)
        support = (data.support_images, data.support_labels)
        query = (data.query_images, data.query_labels)
        batches = [support, query, support] + ([support] if difference == "central" else [])

        def gradients() -> None:
            for images, labels in batches:
                model.module.zero_grad(set_to_none=False)
                F.cross_entropy(model.module(images), labels).backward()

        model.load(theta)
        pairs = [
            (milliseconds(gradients), milliseconds(lambda: train(down, device)))
            for _ in range(TURNS + 2)
        ]
    bare, update = np.array(pairs[2:]).T
    low, middle, high = np.percentile(update / bare, [25, 50, 75])
    return (
        f"| {name} {size}x{size}x{channels} | 6 + 24 | {difference} | {np.median(bare):.1f} | "
        f"{np.median(update):.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
    )


if __name__ == "__main__":
    main()
