"""Fed-LPFM's choices: weight and temperature, distillation losses, number and strength of teachers.

    python -m benchmarks.fed_lpfm_sweep

On the class split with two classes a client. Several teachers have seen 500 images each, the same
ones, and differ by their initialisation or their architecture.
"""

from __future__ import annotations

from typing import Any

from benchmarks.fed_lpfm_runs import (
    TAUGHT,
    Options,
    cell,
    closing,
    for_all,
    options,
    print_table,
    run,
    teacher,
)
from common.errors import RunError

PARTITION = "2 classes"
LAMBDAS = (0.1, 0.5, 0.9)
TEMPERATURES = (1.0, 4.0)
LOSSES: dict[str, dict[str, Any]] = {
    "KL": {"loss": "kl"},
    # A CLIP teacher's logits are a hundred times its cosines: squares of them need little weight.
    "MSE on logits, lambda 0.1": {"loss": "mse", "lambda": 0.1},
    "MSE on logits, lambda 0.001": {"loss": "mse", "lambda": 0.001},
    "features": {"loss": "features"},
    "decoupled, beta 1": {"loss": "decoupled", "beta": 1.0},
    "decoupled, beta 8": {"loss": "decoupled", "beta": 8.0},
}
WEAK = 500
"""Images that each of several teachers has seen."""

STRENGTHS = (100, WEAK, TAUGHT)


def _cell(asked: Options, teachers: list[tuple[str, int, int]], **settings: Any) -> str:
    """One cell; teachers are (backbone, number of images, number)."""
    scores = []
    for seed in asked.seeds:
        folders = [teacher(asked, b, seed, n, k)[0] for b, n, k in teachers]  # type: ignore[arg-type]
        try:
            scores.append(run(asked, "fed_lpfm", PARTITION, seed, for_all(*folders), **settings))
        except RunError:
            return "diverged"
    return cell(scores)


def main() -> None:
    """Print the four tables; a cell says so if any of its runs diverged."""
    asked = options(str(__doc__))
    one = [("resnet", TAUGHT, 0)]
    rows = {
        f"{value}": [
            _cell(asked, one, **{"lambda": value, "temperature": tau}) for tau in TEMPERATURES
        ]
        for value in LAMBDAS
    }
    print_table(["lambda", *(f"tau {tau:g}" for tau in TEMPERATURES)], rows)
    print()
    print_table(
        ["loss", "accuracy"], {name: [_cell(asked, one, **more)] for name, more in LOSSES.items()}
    )
    print()
    several = {
        "1 ResNet": [("resnet", WEAK, 0)],
        "2 ResNets": [("resnet", WEAK, k) for k in range(2)],
        "3 ResNets": [("resnet", WEAK, k) for k in range(3)],
        "ResNet and ViT": [("resnet", WEAK, 0), ("vit", WEAK, 0)],
    }
    print_table(
        ["teachers on each device", "accuracy"],
        {name: [_cell(asked, chosen)] for name, chosen in several.items()},
    )
    print()
    rows = {}
    for images in STRENGTHS:
        known = [teacher(asked, "resnet", seed, images)[1] for seed in asked.seeds]
        rows[str(images)] = [
            f"{100 * sum(known) / len(known):.1f}",
            _cell(asked, [("resnet", images, 0)]),
        ]
    print_table(["images the teacher has seen", "teacher, zero-shot", "Fed-LPFM"], rows)
    print("\n" + closing(asked, "fed_lpfm_sweep"))


if __name__ == "__main__":
    main()
