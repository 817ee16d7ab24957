"""FedProx on quadratics: enough local steps reach the minimiser of the proximal problem.

argmin 1/2 (theta - a)' S (theta - a) + mu/2 ||theta - theta^t||^2
    = (S + mu I)^-1 (S a + mu theta^t)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import client_app.methods.fedavg
import server_app.methods.fedavg
from client_app.methods.fedprox import train
from common.modelfile import load_model
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.method import Setup
from server_app.methods.fedprox import Server, Settings
from tests.quadratic import QuadraticDevice, play

START = Tensors.pack({"theta": np.linspace(-1, 1, 5).astype(np.float32)})


@pytest.mark.parametrize("mu", [0.01, 0.5, 3.0])
def test_reaches_the_proximal_minimiser(mu: float):
    device = QuadraticDevice(1)
    server = Server(Settings(mu=mu, sgd=LocalSgd(lr=0.2, epochs=800, batch_size=0)), Setup(START))
    theta = server.model.vector.astype(float)
    for round in (1, 2):
        theta = np.linalg.solve(device.S + mu * np.eye(5), device.S @ device.a + mu * theta)
        play(server, train, [device], [round])
        np.testing.assert_allclose(server.model.vector, theta, atol=1e-4)


def test_without_mu_it_is_fedavg():
    options = LocalSgd(lr=0.2, epochs=4, momentum=0.3, batch_size=0)
    prox = Server(Settings(mu=0.0, sgd=options), Setup(START))
    average = server_app.methods.fedavg.Server(
        server_app.methods.fedavg.Settings(sgd=options), Setup(START)
    )
    play(prox, train, [QuadraticDevice(i) for i in range(3)], range(1, 4))
    devices = [QuadraticDevice(i) for i in range(3)]
    play(average, client_app.methods.fedavg.train, devices, range(1, 4))
    np.testing.assert_array_equal(prox.model.vector, average.model.vector)


def test_at_the_defaults_it_is_not_fedavg(small_run: Callable[..., Path]):
    """A round of one full-batch step has no room for the proximal term."""
    models = [
        load_model(small_run(method, {"run-name": method}) / "models/last.safetensors")[0].vector
        for method in ("fedavg", "fedprox")
    ]
    assert not np.array_equal(*models)
    assert np.linalg.norm(models[0] - models[1]) < 0.1 * np.linalg.norm(models[0])
