"""What a simulated round costs: seconds and memory, by the number of clients and of processes.

    python -m benchmarks.simulation --clients 10,100,1000 --processes 1,2

FedAvg with ``cnn-small`` on Fashion-MNIST, each client with 30 images of each of two classes:
one epoch of batches of ten, two rounds after the first evaluation. Each run is
a program of its own. Seconds are those of the quicker round, evaluation not included; memory is the
most that all its processes had at once, shared pages counted once (PSS). ``model`` is the
beginning of the SHA-256 of the model's file: runs of the same clients must have the same.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import footer

SETTINGS = {
    "method": "fedavg", "model": "cnn-small", "rounds": 2, "evaluation.every": 0,
    "fedavg.sgd.epochs": 1, "data.name": "fashion-mnist", "data.image-size": 28,
    "data.samples-min": 30, "data.samples-max": 30, "data.targets": 10, "data.server-images": 100,
    "data.pretrain-images": 0, "run-name": "run",
}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", default="10,100,1000")
    parser.add_argument("--processes", default="1,2")
    chosen = parser.parse_args()
    print("| clients | processes | seconds a round | ms a client | most memory, MB | model |")
    print("| --- | --- | --- | --- | --- | --- |")
    for clients in map(int, chosen.clients.split(",")):
        for processes in map(int, chosen.processes.split(",")):
            print(_row(clients, processes), flush=True)
    print("\n" + footer("python -m benchmarks.simulation " + " ".join(sys.argv[1:])))


def _row(clients: int, processes: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        settings = SETTINGS | {"data.sources": clients}
        words = [part for key, value in settings.items() for part in ("-s", f"{key}={value}")]
        program = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "simulate", "--processes", str(processes), *words],
            env={"AUGFLOWER_RUNS": folder, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        most = 0
        while program.poll() is None:
            most = max(most, _memory(program.pid))
            time.sleep(0.2)
        if program.returncode:
            raise SystemExit(f"{clients} clients in {processes} processes: the run failed")
        run = Path(folder) / "run"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        model = (run / "models/last.safetensors").read_bytes()
    seconds = min(
        sum(value for name, value in line["seconds"].items() if name != "evaluate")
        for line in lines[1:]
    )
    return (
        f"| {clients} | {processes} | {seconds:.2f} | {1000 * seconds / clients:.1f} | "
        f"{most / 1e6:.0f} | {hashlib.sha256(model).hexdigest()[:8]} |"
    )


def _memory(parent: int) -> int:
    """Bytes of a process and its children; what they share is counted once."""
    total = 0
    for pid in [parent, *_children(parent)]:
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if "Pss:" in line)
    return 1024 * total


def _children(parent: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
