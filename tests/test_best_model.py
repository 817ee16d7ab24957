"""A run that has lost its way returns to its best model, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import RunError
from common.tensors import Tensors
from server_app.rounds.best_model import BestModel

BAD = {
    "augfl.lambda": 0.0, "augfl.rho": 0.01, "augfl.alpha": 1.0, "rounds": 25,
    "data.sources": 6, "data.targets": 2, "evaluation.every": 25,
}  # fmt: skip
NONE = Tensors((), {})
Run = Callable[..., Path]


def tensors(value: float) -> Tensors:
    return Tensors.pack({"w": np.full(2, value, np.float32)})


def test_the_best_model_is_kept_and_the_first_loss_is_the_measure():
    best = BestModel()
    losses = (2.0, 1.0, 1.5, 8.0)
    excess = [
        best.excess(round, loss, tensors(round), NONE) for round, loss in enumerate(losses, 1)
    ]
    assert excess == [1.0, 0.5, 0.75, 4.0]
    assert best.model is not None
    assert best.model.vector[0] == best.round == 2
    assert best.first == 2.0


def test_a_run_that_begins_with_a_good_model_may_lose_a_little():
    best = BestModel()
    assert best.excess(1, 0.01, tensors(0), NONE) == 0.01
    assert best.excess(2, 0.5, tensors(1), NONE) == 0.5


def test_goes_on_from_its_state():
    one, two = BestModel(), BestModel()
    two.load_state(*one.state())
    assert two.model is None
    one.excess(1, 3.0, tensors(1.0), NONE)
    groups, notes = one.state()
    two.load_state(groups, json.loads(json.dumps(notes)))
    assert two.excess(2, 6.0, tensors(2.0), NONE) == 2.0
    assert two.model is not None
    assert two.model.vector[0] == 1.0


def test_a_rho_far_too_small_is_mended_on_the_way(small_run: Run):
    lines = read(small_run("augfl", BAD))
    losses = [line["train"]["loss"] for line in lines]
    fell = [line["round"] for line in lines if line["method"].get("fell_back")]
    assert fell, "or this test shows nothing"
    assert losses[-1] < losses[0]
    assert lines[-1]["method"]["rho"] > 10 * BAD["augfl.rho"]
    assert all(line["replies"] == 6 for line in lines), "honest devices are not blamed"


def test_a_fixed_rho_far_too_small_ends_the_run_and_says_what_to_do(small_run: Run):
    with pytest.raises(RunError, match=r"diverged|no longer finite") as error:
        small_run("augfl", BAD | {"augfl.adaptive-rho": False, "augfl.alpha": 0.3})
    assert "raise rho" in str(error.value).lower()


def read(folder: Path) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "train" in line]
