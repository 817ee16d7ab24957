"""FedAvg on quadratics: one full-batch step is a step on the weighted mean loss."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.methods.fedavg import train
from common.methods.fedavg import Up
from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.method import Setup
from server_app.methods.fedavg import Server, Settings
from tests.quadratic import QuadraticDevice, play, take


def make(**settings: object):
    devices = [QuadraticDevice(seed) for seed in range(4)]
    start = Tensors.pack({"theta": np.linspace(-1, 1, 5).astype(np.float32)})
    return Server(Settings.model_validate({"sgd": settings}), Setup(start)), devices


def shares(devices: list[QuadraticDevice]) -> np.ndarray:
    sizes = np.array([device.examples for device in devices], float)
    return sizes / sizes.sum()


def test_one_step_is_gradient_descent_on_the_weighted_loss():
    server, devices = make(lr=0.3)
    theta = server.model.vector.astype(float)
    for round in (1, 2, 3):
        slope = sum(w * d.S @ (theta - d.a) for w, d in zip(shares(devices), devices, strict=True))
        theta = theta - 0.3 * slope
        play(server, train, devices, [round])
        np.testing.assert_allclose(server.model.vector, theta, atol=1e-5)


def test_momentum_and_epochs():
    server, devices = make(lr=0.2, momentum=0.5, epochs=3)
    start = server.model.vector.astype(float)
    ends = []
    for device in devices:
        theta, velocity = start.copy(), np.zeros(5)
        for _ in range(3):
            velocity = 0.5 * velocity + device.S @ (theta - device.a)
            theta = theta - 0.2 * velocity
        ends.append(theta)
    play(server, train, devices, [1])
    np.testing.assert_allclose(server.model.vector, shares(devices) @ np.array(ends), atol=1e-5)


def test_buffers_are_averaged_by_data_size_and_counters_are_not():
    server, _ = make()
    server.buffers = Tensors.pack({"mean": np.zeros(2, np.float32), "count": np.array(0)})
    change = server.model.with_vector(np.zeros(5, np.float32))
    replies = Replies(server)
    for n, mean, count in ((10, 1.0, 4), (30, 5.0, 2)):
        buffers = Tensors.pack({"mean": np.full(2, mean, np.float32), "count": np.array(count)})
        take(replies, n, Up(1, n, 0.5, change, buffers))
    server.step(1, replies)
    averaged = server.buffers.unpack()
    np.testing.assert_allclose(averaged["mean"], 4.0)
    assert averaged["count"] == 4
    assert averaged["count"].dtype == np.int64


def test_reported_loss_is_the_mean_over_images():
    server, devices = make(lr=0.1)
    theta = server.model.vector.astype(float)
    losses = [0.5 * (theta - d.a) @ d.S @ (theta - d.a) for d in devices]
    (metrics,) = play(server, train, devices, [1])
    assert metrics["loss"] == pytest.approx(float(shares(devices) @ losses), rel=1e-5)
