"""Fed-LPFM against FedAvg, FedProx and FML as the clients' data grow apart.

    python -m benchmarks.fed_lpfm [--seeds 0 1 2] [--rounds 15] [--epochs 2]

Accuracy after the last round on a balanced test set, per cent, mean and standard deviation over
the seeds; in brackets that of the worst class. The teacher's own zero-shot accuracy stands beside,
so that nobody takes for learning what the teacher knew all along.
"""

from __future__ import annotations

import numpy as np

from benchmarks.fed_lpfm_runs import (
    PARTITIONS,
    cell,
    closing,
    for_all,
    options,
    print_table,
    run,
    teacher,
)

RIVALS = {
    "FedAvg": "fedavg",
    "FedProx": "fedprox",
    "FML": "fml",
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
        for name, method in RIVALS.items():
            scores = [run(asked, method, partition, seed) for seed in asked.seeds]
            rows[name].append(cell(scores))
            means[name] = np.mean([score.accuracy for score in scores])
        scores = [
            run(asked, "fed_lpfm", partition, seed, for_all(found[seed][0])) for seed in asked.seeds
        ]
        rows["Fed-LPFM"].append(cell(scores))
        mean = np.mean([score.accuracy for score in scores])
        gaps.append(f"{100 * (mean - means['FedProx']):+.1f}")
    rows["Fed-LPFM over FedProx"] = gaps
    print_table(["method", *PARTITIONS], rows)
    print(f"\nTeacher alone, zero-shot: {np.mean(zero_shot):.1f} ± {np.std(zero_shot):.1f} %")
    print("\n" + closing(asked, "fed_lpfm"))


if __name__ == "__main__":
    main()
