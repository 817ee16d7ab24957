"""Settings for Fed-LPFM and its rivals, tried on a partition that no other table reports.

    python -m benchmarks.fed_lpfm_choose

Clients, test images and teacher are those of seed 100; the tables beside this file report the seeds
from 0. Each method takes the settings with the best mean over the class split with one and with two
classes a client; they stand in ``CHOSEN`` of benchmarks/fed_lpfm_runs.py.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from benchmarks.fed_lpfm_runs import closing, for_all, options, print_table, run, teacher
from common.errors import DivergedError, FleetError

SEED = 100
PARTITIONS = ("1 class", "2 classes")
RATES = (0.003, 0.01, 0.03)
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "fedavg": {"sgd.lr": RATES},
    "fedprox": {"sgd.lr": RATES, "mu": (0.01, 0.1)},
    "fml": {"sgd.lr": RATES},
    "fed_lpfm": {"sgd.lr": RATES, "lambda": (0.5, 0.9)},
}


def main() -> None:
    """Print the table; the best of each method is marked, and 0 is a run that diverged."""
    asked = options(str(__doc__), seeds=(SEED,))
    folder, known = teacher(asked, "resnet", SEED)
    rows = {}
    for method, grid in GRIDS.items():
        tried: dict[str, list[float]] = {}
        taught: Any = {"teachers": for_all(folder)} if method == "fed_lpfm" else {}
        for values in product(*grid.values()):
            settings: dict[str, Any] = dict(zip(grid, values, strict=True))
            name = ", ".join([method, *(f"{key} {value:g}" for key, value in settings.items())])
            tried[name] = []
            for partition in PARTITIONS:
                try:
                    score = run(asked, method, partition, SEED, **taught, **settings)
                    tried[name].append(100 * score.accuracy)
                except (FleetError, DivergedError):
                    tried[name].append(0.0)
        best = max(tried, key=lambda name: float(np.mean(tried[name])))
        for name, scores in tried.items():
            cells = [f"{score:.1f}" for score in (*scores, np.mean(scores))]
            rows[f"**{name}**" if name == best else name] = cells
    print_table(["settings", *PARTITIONS, "mean"], rows)
    print(f"\nTeacher alone, zero-shot: {100 * known:.1f} %")
    print("\n" + closing(asked, "fed_lpfm_choose"))


if __name__ == "__main__":
    main()
