"""Ditto on quadratics: the personal model is argmin 1/2 (v - a)' S (v - a) + mu/2 ||v - w||^2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_app.methods import ditto
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.method import Setup
from server_app.methods import ditto as half
from tests.personal import SGD, answers, device, fedavg, run, server
from tests.quadratic import QuadraticDevice, play
from tests.test_conformance import PLAIN, lines

START = Tensors.pack({"theta": np.linspace(-1, 1, 5).astype(np.float32)})


def own(one: Any) -> Tensors:
    return one.memory.read("ditto")[0]["own"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("mu", [0.05, 1.0, 8.0])
def test_the_personal_model_is_the_proximal_minimiser(mu: float):
    one: Any = QuadraticDevice(1)
    sgd = LocalSgd(lr=0.1, epochs=3, batch_size=0)
    start = half.Server(half.Settings(mu=mu, own_epochs=900, sgd=sgd), Setup(START))
    for round in (1, 2):
        w = start.model.vector.astype(float)
        play(start, ditto.train, [one], [round])
        expected = np.linalg.solve(one.S + mu * np.eye(5), one.S @ one.a + mu * w)
        np.testing.assert_allclose(own(one).vector, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ["cnn-tiny", "resnet8x4"])
def test_the_shared_half_is_fedavg(architecture: str):
    found, _ = run(half, ditto.train, {"mu": 0.7}, range(1, 3), architecture)
    expected = fedavg(range(1, 3), architecture=architecture)
    np.testing.assert_array_equal(found.model.vector, expected.model.vector)
    for mine, theirs in zip(
        found.buffers.vectors.values(), expected.buffers.vectors.values(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_without_mu_the_personal_model_is_trained_alone():
    """Whatever the others do: it depends on the first w alone."""
    _, devices = run(half, ditto.train, {"mu": 0.0}, range(1, 4))
    one, start = device(1, 13), server(half, {"sgd": SGD, "mu": 0.0})
    for round in range(1, 4):
        ditto.train(start.broadcast(round, 1), one)
    assert own(one).vector.tobytes() == own(devices[1]).vector.tobytes()


def test_a_source_uses_its_model_and_a_new_client_makes_one():
    found, devices = run(half, ditto.train, {"own-epochs": 20}, range(1, 3))
    down, one = found.broadcast(3, 0), devices[0]
    one.model.load_tensors(own(one))
    expected = answers(one.model.module, one)
    got = ditto.personal(down, one, one.client, 4)
    np.testing.assert_array_equal(answers(got, one), expected)
    stranger = device(9, role="target")
    data = stranger.clients[0]
    before = answers(ditto.personal(down, stranger, data, 0), data)
    stranger.model.load_tensors(found.model)
    np.testing.assert_array_equal(before, answers(stranger.model.module, data))
    after = answers(ditto.personal(down, stranger, data, 9), data)
    assert not np.allclose(before, after)


def test_at_the_defaults_mu_matters(small_run: Callable[..., Path]):
    own_losses = [
        lines(small_run("ditto", {**PLAIN, "run-name": name, "ditto.mu": mu}))[2]["method"]
        for name, mu in (("default", half.Settings().mu), ("zero", 0.0))
    ]
    assert own_losses[0]["step_norm"] == own_losses[1]["step_norm"]
    assert own_losses[0]["own_loss"] > 1.001 * own_losses[1]["own_loss"]
