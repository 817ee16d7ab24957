"""How good a model becomes by the number of clients and of each client's images.

Clients have folders of their own with four of the ten digits, 8 x 8 pixels; four more, which never
train, adapt the model on a fifth of their 80 images and are asked about the others. Fifty rounds of
FedAvg.

    python -m benchmarks.images_needed
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import footer
from common.data.load import load
from deploy.simulate import simulate
from server_app.runs.record import read_run
from server_app.settings import ServerSettings

CLIENTS, EACH, SEEDS = (2, 4, 8), (3, 6, 12, 24), (0, 1, 2)
TARGETS, CLASSES, ASKED, ROUNDS = 4, 4, 20, 50


def write_clients(folder: Path, clients: int, each: int, seed: int) -> Path:
    """Write folders; ``each`` images of four digits for a client that trains, 20 for another."""
    pool, dice = load("digits", image_size=8), np.random.default_rng(seed)
    left = [list(dice.permutation(np.flatnonzero(pool.labels == c))) for c in range(10)]
    for client in range(clients + TARGETS):
        # In turn through the ten digits, so that all are known to somebody from three clients on.
        digits = [(4 * client + k) % 10 for k in range(CLASSES)]
        for digit in digits:
            place = folder / f"{client:02}" / str(digit)
            place.mkdir(parents=True)
            for _ in range(each if client < clients else ASKED):
                image = left[digit].pop()
                Image.fromarray(pool.pixels(np.array([image]))[0, 0]).save(place / f"{image}.png")
    return folder


def accuracies(clients: int, each: int, seed: int) -> tuple[float, float]:
    """Of the last model before and after adaptation, percent."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run = simulate(
            {
                "method": "fedavg", "rounds": ROUNDS, "evaluation.every": 0, "seed": seed,
                "data.targets": TARGETS, "keep-checkpoints": 1,
            },
            ServerSettings(runs=place / "runs", cache=place / "cache"),
            lambda _: None,
            clients=write_clients(place / "clients", clients, each, seed),
        )  # fmt: skip
        evaluated = read_run(run).rounds[-1].evaluation
        assert evaluated is not None
        return 100 * evaluated.accuracy_before, 100 * evaluated.accuracy_after


def main() -> None:
    """Print the table."""
    print("| clients that train | images of each class | before | after adaptation |")
    print("| --- | --- | --- | --- |")
    for clients in CLIENTS:
        for each in EACH:
            figures = np.array([accuracies(clients, each, seed) for seed in SEEDS])
            cells = [
                f"{m:.1f} ± {s:.1f}" for m, s in zip(figures.mean(0), figures.std(0), strict=True)
            ]
            print(f"| {clients} | {each} | {' | '.join(cells)} |", flush=True)
    print(f"\n{footer('python -m benchmarks.images_needed')}")


if __name__ == "__main__":
    main()
