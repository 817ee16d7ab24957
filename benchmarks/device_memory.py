"""Memory of a device: idle and warm, and at most while it trains one round of FedAvg.

    python -m benchmarks.device_memory

Each row is a process of its own, with one thread, that imports what a warm node keeps ready
(``deploy/warm.py``), then trains on 40 images in batches of ten. "idle" is resident memory before
the device is built, "most" the largest until the update is made (VmHWM).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.machine import footer

CASES = [("cnn-small", 28, 1), ("resnet18", 32, 3), ("timm:vit_tiny_patch16_224/4", 32, 3)]


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 1:
        _one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        return
    print("| model | images | idle, MB | most, MB |\n| --- | --- | --- | --- |")
    for name, size, channels in CASES:
        words = [sys.executable, "-m", "benchmarks.device_memory", name, str(size), str(channels)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        print(f"| {name} | {size}x{size}x{channels} | {said.strip()} |", flush=True)
    print("\n" + footer("python -m benchmarks.device_memory"))


def _one(name: str, size: int, channels: int) -> None:
    from deploy.warm import LIBRARIES, preload

    preload(LIBRARIES)
    idle = _status("VmRSS")
    import torch
    from flwr.app import Context, RecordDict

    from client_app.device import Device
    from client_app.memory import Memory
    from client_app.methods.fedavg import train
    from common.data.client import ClientData
    from common.methods.fedavg import Down
    from common.models import FlatModel, build
    from common.sgd import LocalSgd

    torch.set_num_threads(1)
    labels = torch.arange(20) % 10
    halves = [(torch.randn(20, channels, size, size), labels) for _ in range(2)]
    data = ClientData(*halves[0], *halves[1], tuple(range(10)), 0)
    model = FlatModel(build(name, classes=10, channels=channels, image_size=size))
    memory = Memory(Context(1, 1, {}, RecordDict(), {}, 0), None)
    device = Device("source", [data], tuple("0123456789"), "", model, memory)
    sgd = LocalSgd(epochs=1, batch_size=10)
    train(Down(1, 0, model.parameters, model.buffers, sgd), device)
    print(f"{idle:.0f} | {_status('VmHWM'):.0f}")


def _status(name: str) -> float:
    """A figure of this process from the kernel, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1e3


if __name__ == "__main__":
    main()
