"""What the limit on the weight of a device's own images costs honest fleets, and what it saves.

Ten sources and ten targets with images of four digits in folders of their own. The sources' numbers
of images are lognormal around 32 (sigma 1), every class in each; targets have 20. In half of the
runs the first source says that it has ten million images, and has all its labels shifted by one.

    python -m benchmarks.own_images
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from PIL import Image

from benchmarks.machine import footer
from client_app.app import app
from common.data.load import load
from common.wire import PLAIN
from deploy.run_config import default_config
from server_app.app import run
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid

SOURCES, TARGETS, SEEDS, CLASSES, CLAIM = 10, 10, (0, 1), 4, 5_000_000
COMMON = {
    "data.name": "folder", "data.class-names": ",".join("0123"), "data.image-size": 8,
    "data.channels": 1, "round.nodes": SOURCES + TARGETS, "rounds": 20, "evaluation.every": 0,
    "keep-checkpoints": 1,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"fedavg.sgd.lr": 0.2, "fedavg.sgd.epochs": 3},
    "augfl": {"augfl.lambda": 0.0, "augfl.weights": "examples"},
}


def write_fleet(folder: Path, seed: int, shifted: bool) -> list[int]:
    """Write the folders of all clients; gives the sources' numbers of images."""
    pool, dice = load("digits", image_size=8), np.random.default_rng(seed)
    left = [list(dice.permutation(np.flatnonzero(pool.labels == c))) for c in range(CLASSES)]
    each = np.clip(8 * np.exp(dice.normal(size=SOURCES)), 3, 30).astype(int).tolist()
    for client, count in enumerate([*each, *[5] * TARGETS]):
        for label, images in enumerate(left):
            place = folder / str(client) / str((label + (shifted and client == 0)) % CLASSES)
            place.mkdir(parents=True)
            for image in (images.pop() for _ in range(count)):
                Image.fromarray(pool.pixels(np.array([image]))[0, 0]).save(place / f"{image}.png")
    return [CLASSES * count for count in each]


def accuracies(method: str, limit: float, lie: bool, seed: int) -> tuple[float, float]:
    """Of the last model after adaptation, over images and over clients, percent."""

    def interfere(message: Message, reply: Message) -> Message:
        if lie and message.metadata.dst_node_id == FIRST_NODE:
            fields = reply.content[PLAIN]
            if message.metadata.message_type == "query.enrol":
                fields.update(support=CLAIM, query=CLAIM)
            else:
                fields.update(examples=2 * CLAIM)
        return reply

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_fleet(folder / "images", seed, shifted=lie)
        own = {"method": method, "seed": seed, "data.weight-limit": limit}
        config = default_config() | COMMON | METHODS[method] | own
        nodes = [
            {"data-folder": str(folder / "images" / str(n)),
             "role": "source" if n < SOURCES else "target"}
            for n in range(SOURCES + TARGETS)
        ]  # fmt: skip
        grid = InProcessGrid(app, nodes, config, interfere=interfere)
        server = ServerSettings(runs=folder / "runs", cache=folder / "cache")
        path = run(grid, config, server, lambda _: None)
        last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["evaluation"]
    return 100 * last["accuracy_after"], 100 * last["over_clients"]["accuracy_after"]


def main() -> None:
    """Print the table."""
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as name:
            print(f"seed {seed}: images of the sources {write_fleet(Path(name), seed, False)}")
    print("| method | first source | limit | over images | over clients |")
    print("| --- | --- | --- | --- | --- |")
    for method in METHODS:
        for lie in (False, True):
            for limit in (0.0, 3.0):
                found = np.array([accuracies(method, limit, lie, seed) for seed in SEEDS])
                cells = [
                    f"{m:.1f} ± {s:.1f}" for m, s in zip(found.mean(0), found.std(0), strict=True)
                ]
                who = "lies" if lie else "is honest"
                print(f"| {method} | {who} | {limit:g} | {cells[0]} | {cells[1]} |", flush=True)
    print("\n" + footer("python -m benchmarks.own_images"))


if __name__ == "__main__":
    main()
