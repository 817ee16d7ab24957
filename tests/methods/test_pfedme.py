"""pFedMe on quadratics: with exact inner minimisers, w goes down the Moreau envelope.

theta(w) = argmin 1/2 (theta - a)' S (theta - a) + lambda/2 ||theta - w||^2
         = (S + lambda I)^-1 (S a + lambda w)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client_app.methods import pfedme
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.method import Setup
from server_app.methods import pfedme as half
from tests.personal import answers, device, run, server
from tests.quadratic import QuadraticDevice, play

START = Tensors.pack({"theta": np.linspace(-1, 1, 5).astype(np.float32)})
EXACT = {"lambda": 2.0, "own-steps": 400, "own-lr": 0.2}


def own(one: Any) -> Tensors:
    return one.memory.read("pfedme")[0]["own"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_one_local_step_is_one_on_the_moreau_envelope(beta: float):
    devices: list[Any] = [QuadraticDevice(i) for i in range(3)]
    sgd = LocalSgd(lr=0.1, batch_size=0)
    settings = half.Settings.model_validate(
        EXACT | {"beta": beta, "sgd": sgd.model_dump(by_alias=True)}
    )
    start = half.Server(settings, Setup(START))
    w = START.vector.astype(float)
    for round in (1, 2):
        play(start, pfedme.train, devices, [round])
        near = [np.linalg.solve(one.S + 2 * np.eye(5), one.S @ one.a + 2 * w) for one in devices]
        for one, theta in zip(devices, near, strict=True):
            np.testing.assert_allclose(own(one).vector, theta, atol=1e-5)
        weights = np.array([one.examples for one in devices])
        gradient = 2 * (w - np.average(near, axis=0, weights=weights))
        w = w - beta * 0.1 * gradient
        np.testing.assert_allclose(start.model.vector, w, atol=1e-5)


def test_all_epochs_reach_the_same_place_as_gradient_descent_on_the_envelope():
    one: Any = QuadraticDevice(4)
    settings = half.Settings.model_validate(
        EXACT | {"sgd": {"lr": 0.3, "batch-size": 0, "epochs": 200}}
    )
    start = half.Server(settings, Setup(START))
    play(start, pfedme.train, [one], [1])
    np.testing.assert_allclose(start.model.vector, one.a, atol=1e-4)


def test_with_beta_zero_the_server_never_moves_and_clients_do():
    found, devices = run(half, pfedme.train, {"beta": 0.0}, range(1, 4))
    assert found.model.vector.tobytes() == server(half, {}).model.vector.tobytes()
    assert not np.array_equal(own(devices[0]).vector, found.model.vector)


def test_a_source_uses_theta_and_a_new_client_makes_one_near_w():
    found, devices = run(half, pfedme.train, {"own-lr": 0.05}, range(1, 3))
    down, one = found.broadcast(3, 0), devices[0]
    one.model.load_tensors(own(one))
    expected = answers(one.model.module, one)
    np.testing.assert_array_equal(answers(pfedme.personal(down, one, one.client, 4), one), expected)
    stranger = device(9, role="target")
    data = stranger.clients[0]
    pfedme.personal(down, stranger, data, 0)
    np.testing.assert_array_equal(stranger.model.vector.numpy(), found.model.vector)
    pfedme.personal(down, stranger, data, 5)
    apart = np.linalg.norm(stranger.model.vector.numpy() - found.model.vector)
    assert 0 < apart < np.linalg.norm(found.model.vector)
