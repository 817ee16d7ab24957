"""FedDistill: the mean of logits by hand, and the pull towards it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.methods import feddistill
from client_app.own_model import new_model
from common.tensors import Tensors
from common.wire import pack, size
from server_app.aggregation.replies import Replies
from server_app.methods.feddistill import Server, Settings
from tests.own_devices import device, setup
from tests.quadratic import take


def server(**options: Any) -> Server:
    return Server(Settings.model_validate(options), setup())


def own_vector(one: Any) -> np.ndarray:
    return one.memory.read("feddistill")[0]["own"].vector


def test_the_mean_of_logits():
    start = server()
    base = feddistill.train(start.broadcast(1, 0), device())
    sent = [
        {"0": [1, 2, 3], "1": [0, 6, 0]},
        {"1": [2, 0, 2]},
        {"1": [4, 3, 1], "2": [7, 7, 7]},
    ]  # fmt: skip
    replies = Replies(start)
    for client, mine in enumerate(sent):
        logits = Tensors.pack({c: np.array(row, np.float32) for c, row in mine.items()})
        take(replies, client, replace(base, examples=client + 1, logits=logits))
    start.step(1, replies)
    found = start.logits.unpack()
    np.testing.assert_array_equal(found["0"], [1, 2, 3])
    np.testing.assert_array_equal(found["1"], [2, 3, 1])
    np.testing.assert_array_equal(found["2"], [7, 7, 7])


def test_one_step_by_autograd():
    one, start = device(), server(**{"lambda": 2.0, "sgd": {"lr": 0.1, "batch-size": 0}})
    rows = torch.tensor([[3.0, 0.0, -1.0], [0.0, 1.0, 2.0]])
    start.logits = Tensors.pack({"0": rows[0].numpy(), "1": rows[1].numpy()})  # none of class 2
    down = start.broadcast(1, 0)
    own = new_model(one, down.seed)
    images, labels = one.images
    logits = own.module(images)
    logs = F.log_softmax(logits, 1)
    soft = -sum(
        (rows[c].softmax(0) * logs[labels == c]).sum() for c in (0, 1)
    ) / len(labels)  # fmt: skip
    goal = F.cross_entropy(logits, labels) + 2.0 * soft
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(goal, [*own.module.parameters()])])
    feddistill.train(down, one)
    moved = own_vector(one) - own.parameters.vector
    np.testing.assert_allclose(moved, -0.1 * slope.numpy(), atol=1e-6)


def test_a_device_sends_the_mean_logits_of_its_classes():
    one = device("resnet8x4", labels=(1, 2))
    up = feddistill.train(server().broadcast(1, 0), one)
    assert size(pack(up)) == 2 * 3 * 4
    own = new_model(one, 0)
    feddistill_kept = one.memory.read("feddistill")
    assert feddistill_kept is not None
    own.load(torch.tensor(own_vector(one)))
    own.load_buffers(feddistill_kept[0]["buffers"])
    images, labels = one.images
    with torch.no_grad():
        mine = own.module.eval()(images)
    for label, array in up.logits.unpack().items():
        np.testing.assert_allclose(array, mine[labels == int(label)].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_a_pull_of_nothing_is_training_alone(pull: float):
    one, other, start = device(), device(), server(**{"lambda": pull})
    feddistill.train(start.broadcast(1, 0), one)
    start.logits = Tensors.pack({"0": np.array([0, 9, 0], np.float32)})
    feddistill.train(start.broadcast(1, 0), other)
    assert np.array_equal(own_vector(one), own_vector(other)) == (pull == 0.0)
