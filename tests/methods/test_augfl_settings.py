"""Settings of AugFL that change what the server computes, or that it refuses."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from client_app.methods.augfl import train
from common.errors import SettingsError
from deploy.assignments import parse_assignments
from deploy.run_config import default_config
from server_app.app import read_settings
from tests.methods.test_augfl import dual, make, meta_gradients, weights
from tests.quadratic import play

EXACT = {
    "augfl.update": "exact", "augfl.server-steps": 1, "augfl.lambda": 0.1,
    "knowledge.crd": 0.0, "knowledge.squared-distance": 0.5,
}  # fmt: skip


def test_equal_weights_give_the_mean_over_clients():
    server, devices = make(weights="equal")
    assert len(set(weights(devices))) > 1
    gradients = meta_gradients(devices, server.model.vector.astype(float))
    play(server, train, devices, [1])
    for device, gradient in zip(devices, gradients, strict=True):
        np.testing.assert_allclose(dual(device), -gradient / 4, atol=2e-5)
    play(server, train, devices, range(2, 200))
    gradients = meta_gradients(devices, server.model.vector.astype(float))
    np.testing.assert_allclose(gradients.mean(0), 0, atol=2e-3)
    assert np.abs(weights(devices) @ gradients).max() > 0.02


def test_the_exact_update_is_refused_for_other_terms(small_run: Callable[..., Path]):
    with pytest.raises(SettingsError, match="exact is for the squared distance alone"):
        small_run("augfl", EXACT)  # with cross-entropy


def test_the_exact_update_runs_with_the_distance_alone(small_run: Callable[..., Path]):
    folder = small_run("augfl", EXACT | {"knowledge.cross-entropy": 0.0})
    assert "transfer_squared_distance" in (folder / "metrics.jsonl").read_text()


# Of the published code's run on CIFAR-100.
PUBLISHED = {
    "augfl.alpha": 0.05, "augfl.rho": 0.7, "augfl.lambda": 5.0, "augfl.weights": "examples",
    "augfl.adaptive-rho": False, "augfl.update": "linearised", "augfl.server-steps": 1,
    "augfl.difference": "central", "augfl.delta-slope": 10.0, "augfl.delta-offset": 100.0,
    "augfl.batch-size": 0, "evaluation.alpha": 0.05, "evaluation.steps": 1,
    "evaluation.statistics": "query", "knowledge.cross-entropy": 1.0, "knowledge.kl": 0.0,
    "knowledge.crd": 0.8, "knowledge.tasks": 0.0, "knowledge.squared-distance": 0.0,
    "knowledge.batch-size": 128, "knowledge.augment": "crop-flip", "knowledge.negatives": 16384,
    "knowledge.crd-temperature": 0.07, "knowledge.memory-momentum": 0.5,
    "knowledge.memory-start": "random", "knowledge.feature-dim": 128,
    "knowledge.head-learning-rate": 0.002, "knowledge.head-momentum": 0.9,
    "knowledge.head-weight-decay": 5e-4, "data.sources": 40, "data.targets": 60,
    "data.support-fraction": 0.5, "data.samples-min": 10, "data.samples-max": 20,
    "data.server-images": 10_000, "data.partition": "cyclic-pairs", "model": "resnet8x4",
}  # fmt: skip


def command(start: str) -> dict[str, object]:
    """The settings of a command in ``docs/augfl.md``."""
    text = (Path(__file__).parents[2] / "docs" / "augfl.md").read_text()
    words = shlex.split(text[text.index(start) :].partition("\n\n")[0].partition("\n    AUG")[0])
    return parse_assignments([after for word, after in pairwise(words) if word == "-s"])


def test_the_documented_command_is_the_published_run():
    config = default_config() | command("AUGFLOWER_PRIVATE_MODEL=private augflower simulate")
    read_settings(config)
    assert {name: config[name] for name in PUBLISHED} == PUBLISHED
    changed = {n for n in PUBLISHED if default_config()[n] != PUBLISHED[n] and "data." not in n}
    table = (Path(__file__).parents[2] / "docs" / "augfl.md").read_text()
    assert all(f"| `{name}` |" in table for name in changed - {"model"})
    assert table.count("\n| `") == len(changed - {"model"})


def test_the_documented_private_model_is_for_the_same_deal():
    pretrained, run = command("augflower pretrain private"), command("augflower simulate \\")
    assert pretrained.items() <= run.items()
    assert {"data.name", "data.pretrain-images"} <= pretrained.keys()
