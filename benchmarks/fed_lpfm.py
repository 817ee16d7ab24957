"""Fed-LPFM against FedAvg, FedProx and FML as the clients' data grow apart.

    python -m benchmarks.fed_lpfm [--seeds 3] [--rounds 50] [--folder runs/fed_lpfm]

Accuracy after the last round on a balanced test set, per cent, mean and standard deviation over
the seeds; in brackets that of the worst class. The teacher's own zero-shot accuracy stands beside,
so that nobody takes for learning what the teacher knew all along.
"""

from __future__ import annotations

import numpy as np

from benchmarks.fed_lpfm_runs import PARTITIONS, cell, options, print_table, run, table, teacher
from benchmarks.machine import footer

RIVALS = {
    "FedAvg": ("fedavg", {}),
    "FedProx, mu 0.01": ("fedprox", {"mu": 0.01}),
    "FedProx, mu 0.1": ("fedprox", {"mu": 0.1}),
    "FML": ("fml", {}),
}


def main() -> None:
    """Print the table."""
    asked = options(str(__doc__))
    found = {seed: teacher(asked, "resnet", seed) for seed in asked.seeds}
    zero_shot = [100 * accuracy for _, accuracy in found.values()]
    rows: dict[str, list[str]] = {name: [] for name in (*RIVALS, "Fed-LPFM")}
    gaps = []
    for partition in PARTITIONS:
        means = {}
        for name, (method, settings) in RIVALS.items():
            scores = [run(asked, method, partition, seed, **settings) for seed in asked.seeds]
            rows[name].append(cell(scores))
            means[name] = np.mean([score.accuracy for score in scores])
        scores = [
            run(asked, "fed_lpfm", partition, seed, lambda _, seed=seed: table(found[seed][0]))
            for seed in asked.seeds
        ]
        rows["Fed-LPFM"].append(cell(scores))
        prox = max(means[name] for name in means if name.startswith("FedProx"))
        gaps.append(f"{100 * (np.mean([score.accuracy for score in scores]) - prox):+.1f}")
    rows["Fed-LPFM over the better FedProx"] = gaps
    print_table(["method", *PARTITIONS], rows)
    print(f"\nTeacher alone, zero-shot: {np.mean(zero_shot):.1f} ± {np.std(zero_shot):.1f} %")
    print("\n" + footer("python -m benchmarks.fed_lpfm"))


if __name__ == "__main__":
    main()
