"""The paper's three directions: tuned teachers, different teachers, rarely seen classes.

    python -m benchmarks.fed_lpfm_directions

1. A zero-shot teacher against one fine-tuned on the client's own images (its head, or all of its
   image tower), as the clients' data grow apart.
2. The same backbone for all clients against one drawn at random for each.
3. The worst class of the balanced test set, in brackets, which a skewed average forgets first.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks.fed_lpfm_runs import (
    Options,
    cell,
    closing,
    for_all,
    options,
    print_table,
    run,
    table,
    teacher,
)

PARTITIONS = ("1 class", "2 classes", "Dirichlet 1.0")

Choice = Callable[[Options, int], Callable[[int], str]]
"""Seed -> client -> its teachers file."""


def same(backbone: str, **more: object) -> Choice:
    """One teacher for all clients."""

    def choose(asked: Options, seed: int) -> Callable[[int], str]:
        folder, _ = teacher(asked, "vit" if backbone == "vit" else "resnet", seed)
        return for_all(folder, **more)

    return choose


def drawn(asked: Options, seed: int) -> Callable[[int], str]:
    """A backbone at random for each client."""
    both = [teacher(asked, "vit", seed)[0], teacher(asked, "resnet", seed)[0]]
    dice = random.Random(seed)
    chosen = [dice.choice(both) for _ in range(10)]
    return lambda client: table(chosen[client])


ROWS: dict[str, Choice] = {
    "ResNet, zero-shot": same("resnet"),
    "ResNet, tuned head": same("resnet", tuning="head"),
    "ResNet, fully tuned": same("resnet", tuning="full", tuning_lr=1e-4),
    "ViT, zero-shot": same("vit"),
    "a random backbone for each": drawn,
}


def main() -> None:
    """Print the table."""
    asked = options(str(__doc__))
    rows = {
        name: [
            cell([run(asked, "fed_lpfm", p, seed, choose(asked, seed)) for seed in asked.seeds])
            for p in PARTITIONS
        ]
        for name, choose in ROWS.items()
    }
    print_table(["teacher", *PARTITIONS], rows)
    for backbone in ("resnet", "vit"):
        known = [teacher(asked, backbone, seed)[1] for seed in asked.seeds]
        print(f"\n{backbone} alone, zero-shot: {100 * sum(known) / len(known):.1f} %")
    print("\n" + closing(asked, "fed_lpfm_directions"))


if __name__ == "__main__":
    main()
