"""Per-FedAvg on quadratics, where the finite difference is exact."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.methods.per_fedavg import train
from common.tensors import Tensors
from server_app.method import Setup
from server_app.methods.per_fedavg import Server, Settings
from tests.quadratic import QuadraticDevice, play

START = Tensors.pack({"theta": np.linspace(-1, 1, 5).astype(np.float32)})
ALPHA, BETA = 0.3, 0.2


def meta_gradient(device: QuadraticDevice, theta: np.ndarray, variant: str) -> np.ndarray:
    phi = theta - ALPHA * device.S @ (theta - device.a)
    r = device.Q @ (phi - device.b)
    return r if variant == "first-order" else r - ALPHA * device.S @ r


@pytest.mark.parametrize("variant", ["first-order", "hessian-free"])
@pytest.mark.parametrize("steps", [1, 3])
def test_local_meta_steps(variant: str, steps: int):
    devices = [QuadraticDevice(seed) for seed in range(3)]
    options = {"alpha": ALPHA, "beta": BETA, "variant": variant, "steps": steps}
    server = Server(Settings.model_validate(options), Setup(START))
    start, ends = server.model.vector.astype(float), []
    for device in devices:
        theta = start.copy()
        for _ in range(steps):
            theta = theta - BETA * meta_gradient(device, theta, variant)
        ends.append(theta)
    sizes = np.array([device.examples for device in devices], float)
    play(server, train, devices, [1])
    np.testing.assert_allclose(server.model.vector, sizes / sizes.sum() @ np.array(ends), atol=1e-4)


def test_hessian_free_finds_the_optimum_and_first_order_another_point():
    devices = [QuadraticDevice(seed) for seed in range(3)]
    weights = np.array([device.examples for device in devices], float)
    weights /= weights.sum()
    pairs = [device.affine(ALPHA) for device in devices]
    matrix = sum(w * h for w, (h, _) in zip(weights, pairs, strict=True))
    vector = sum(w * c for w, (_, c) in zip(weights, pairs, strict=True))
    best = np.linalg.solve(matrix, vector)
    distances = {}
    for variant in ("hessian-free", "first-order"):
        options = {"alpha": ALPHA, "beta": BETA, "variant": variant, "steps": 1}
        server = Server(Settings.model_validate(options), Setup(START))
        play(server, train, devices, range(1, 300))
        distances[variant] = np.abs(server.model.vector - best).max()
    assert distances["hessian-free"] < 1e-3
    assert distances["first-order"] > 10 * distances["hessian-free"]
