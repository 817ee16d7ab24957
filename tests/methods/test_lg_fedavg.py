"""LG-FedAvg: the average of heads, and training alone as its limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client_app.features import entropy, learn, new_own
from client_app.methods import lg_fedavg
from common.tensors import Tensors
from common.wire import pack, size
from server_app.aggregation.replies import Replies
from server_app.methods.lg_fedavg import Server, Settings
from tests.own_devices import device, setup
from tests.quadratic import take

K = 6


def server(**options: Any) -> Server:
    return Server(Settings.model_validate({"width": K, **options}), setup())


def own_vector(one: Any) -> np.ndarray:
    return one.memory.read("lg_fedavg")[0]["own"].vector


def test_with_no_shared_layer_it_is_training_alone():
    one, start = device(), server()
    alone = None
    for round in (1, 2, 3):
        down = replace(start.broadcast(round, 0), head=Tensors((), {}))
        alone = alone or new_own(one, down.seed, K)
        up = lg_fedavg.train(down, one)
        assert up.loss == learn(alone, one.images, entropy(alone), down.sgd, down.seed)
        assert up.change.specs == ()
        np.testing.assert_array_equal(own_vector(one), alone.parameters.vector)


def test_a_client_alone_keeps_what_it_has_learned():
    one, start, alone = device(), server(), None
    for round in (1, 2, 3):
        down = start.broadcast(round, 0)
        if alone is None:
            alone = new_own(one, down.seed, K)
            alone.load_head(down.head)
        replies = Replies(start)
        take(replies, 0, lg_fedavg.train(down, one))
        start.step(round, replies)
        learn(alone, one.images, entropy(alone), down.sgd, down.seed)
    assert alone is not None
    np.testing.assert_allclose(own_vector(one), alone.parameters.vector, atol=1e-6)


def test_heads_are_averaged_by_data_size():
    start = server()
    before, replies, changes = start.head.vector.copy(), Replies(start), []
    for client, (n, architecture) in enumerate(((6, "cnn-tiny"), (18, "resnet8x4"))):
        up = lg_fedavg.train(start.broadcast(1, client), device(architecture, n, seed=client))
        changes.append(up.change.vector.copy())
        take(replies, client, up)
    start.step(1, replies)
    mean = (6 * changes[0] + 18 * changes[1]) / 24
    np.testing.assert_allclose(start.head.vector, before + mean, atol=1e-6)


@pytest.mark.parametrize(("width", "numbers"), [(K, 3 * K + 3), (512, 3 * 512 + 3)])
def test_a_head_up_and_a_head_down(width: int, numbers: int):
    down = server(width=width).broadcast(1, 0)
    assert size(pack(down)) == 4 * numbers
    assert size(pack(lg_fedavg.train(down, device("resnet8x4")))) == 4 * numbers


def test_the_answer_is_that_of_the_own_body_under_the_shared_head():
    one, start = device(), server()
    lg_fedavg.train(start.broadcast(1, 0), one)
    start.head = start.head.with_vector(np.arange(3 * K + 3, dtype=np.float32))
    module: Any = lg_fedavg.personal(start.broadcast(2, 0), one, one.client, 0).eval()
    own = new_own(one, 0, K)
    own.load(torch.tensor(own_vector(one)))
    images, _ = one.images
    head = start.head.unpack()
    expected = own.module.eval().features(images) @ torch.tensor(np.array(head["weight"])).T
    expected = expected + torch.tensor(np.array(head["bias"]))
    torch.testing.assert_close(module(images), expected)
