"""Settings of AugFL that change what the server computes, or that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client_app.methods.augfl import train
from common.errors import SettingsError
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
