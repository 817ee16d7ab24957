"""FedDBE: a round of FedAvg that finds the consensus, then the loss by autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.methods import feddbe
from common.models import FlatModel, parts, register
from common.tensors import Tensors
from server_app.methods import feddbe as half
from tests.personal import TASK, answers, device, fedavg, run, server

STEP = {"sgd": {"lr": 0.1, "batch-size": 0, "epochs": 1}}
REGISTERED = "cnn-without-bias"
STILL = {"sgd": {"lr": 1e-12, "batch-size": 0, "epochs": 1}}


def own(one: Any) -> np.ndarray[Any, Any]:
    return one.memory.read("feddbe")[0]["own"].vector  # type: ignore[no-any-return]


def test_the_first_round_is_fedavg_and_finds_the_mean_features():
    found, _ = run(half, feddbe.train, {}, [1])
    np.testing.assert_array_equal(found.model.vector, fedavg([1]).model.vector)
    still, devices = run(half, feddbe.train, STILL, [1])
    body, _ = parts.split(TASK.build())
    with torch.no_grad():
        features = torch.cat([body(one.images[0]) for one in devices]).mean(0)
    np.testing.assert_allclose(still.consensus.vector, features.numpy(), atol=1e-5)


def test_the_consensus_stays_what_it_was_first():
    found, _ = run(half, feddbe.train, {}, [1])
    later, _ = run(half, feddbe.train, {}, range(1, 4))
    np.testing.assert_array_equal(found.consensus.vector, later.consensus.vector)


@pytest.mark.parametrize("momentum", [1.0, 0.4])
def test_two_steps_of_network_and_bias_by_autograd(momentum: float):
    one = device()
    two = {"sgd": {"lr": 0.1, "batch-size": 0, "epochs": 2}}
    start = server(half, two | {"kappa": 3.0, "momentum": momentum})
    goal = np.linspace(-1, 1, start._width).astype(np.float32)
    start.consensus = Tensors.pack({"features": goal})
    up = feddbe.train(start.broadcast(2, 0), one)
    network = TASK.build()
    body, head = parts.split(network)
    bias = torch.zeros(len(goal), requires_grad=True)
    images, labels = one.images
    running: Any = 0.0
    moving = [*network.parameters(), bias]
    first = torch.cat([p.detach().flatten() for p in network.parameters()])
    for _ in range(2):
        z = body(images)
        mean = (1 - momentum) * running + momentum * z.mean(0)
        running = mean.detach()
        loss = F.cross_entropy(head(z + bias), labels) + 3.0 * 0.5 * F.mse_loss(
            mean, torch.tensor(goal)
        )
        for parameter, slope in zip(moving, torch.autograd.grad(loss, moving), strict=True):
            parameter.data -= 0.1 * slope
    now = torch.cat([p.detach().flatten() for p in network.parameters()])
    np.testing.assert_allclose(up.change.vector, (now - first).numpy(), atol=1e-5)
    np.testing.assert_allclose(own(one), bias.detach().numpy(), atol=1e-6)
    assert up.features is None


def test_the_personal_model_has_the_bias_in_its_head():
    found, devices = run(half, feddbe.train, {}, range(1, 4))
    one, network = devices[1], FlatModel(TASK.build())
    network.load_tensors(found.model)
    body, head = parts.split(network.module)
    with torch.no_grad():
        expected = head(body(one.images[0]) + torch.tensor(own(one))).numpy()
    got = answers(feddbe.personal(found.broadcast(4, 1), one, one.client, 3), one)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(own(one)).max() > 1e-4


def test_a_new_client_learns_a_bias_on_a_fixed_network():
    found, _ = run(half, feddbe.train, {}, range(1, 4))
    stranger = device(9, role="target")
    values = []
    for steps in (0, 20):
        module = feddbe.personal(found.broadcast(4, 9), stranger, stranger.clients[0], steps)
        values.append({n: p.detach().numpy().copy() for n, p in module.named_parameters()})
    changed = {name for name in values[0] if not np.array_equal(values[0][name], values[1][name])}
    assert changed == {name for name in parts.head_names(module) if name.endswith("bias")}


def test_a_head_without_bias_gets_one():
    found, devices = run(half, feddbe.train, {}, range(1, 3))
    one, down = devices[0], found.broadcast(3, 0)
    with_bias = answers(feddbe.personal(down, one, one.client, 0), one)
    name = next(name for name in parts.head_names(TASK.build()) if name.endswith("bias"))
    bias = found.model.unpack()[name]

    def build(*_: Any) -> Any:
        network = TASK.build()
        parts.head(network).bias = None
        return network

    one.task = replace(TASK, architecture=REGISTERED)
    register(REGISTERED, build)
    bare = replace(down, model=down.model.without({name}))
    without = answers(feddbe.personal(bare, one, one.client, 0), one)
    np.testing.assert_allclose(without, with_bias - bias, rtol=1e-4, atol=1e-5)
