"""FedTGP: margin and loss by hand, and prototypes that the server trains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from client_app.methods import fedproto, fedtgp
from common.models.state import load_state
from common.tensors import Tensors
from common.wire import pack, size
from server_app.aggregation.replies import Replies
from server_app.methods import fedproto as fedproto_server
from server_app.methods.fedtgp import Server, Settings, apart, margin
from tests.own_devices import device, setup
from tests.quadratic import take

K = 6
POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [4.0, 12.0]])
LABELS = torch.tensor([0, 0, 1, 2])


def server(**options: Any) -> Server:
    return Server(Settings.model_validate({"width": K, **options}), setup())


def test_the_margin_is_the_largest_distance_to_the_nearest_other_class():
    # Means are (1, 0), (4, 0), (4, 12): nearest others are 3, 3 and 12 away.
    assert margin(POINTS, LABELS, 100.0) == pytest.approx(12.0)
    assert margin(POINTS, LABELS, 5.0) == 5.0
    assert margin(POINTS[:2], LABELS[:2], 7.0) == 7.0


def test_the_loss_of_one_prototype():
    prototypes = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    # A prototype of class 0 at the origin: distances 5, 1, 10, and a margin of 2.
    near, others = math.exp(-(5.0 + 2.0)), math.exp(-1.0) + math.exp(-10.0)
    found = apart(torch.zeros(1, 2), torch.tensor([0]), prototypes, 2.0)
    assert found.item() == pytest.approx(-math.log(near / (near + others)), rel=1e-5)


def test_a_prototype_that_lies_on_one_of_the_server_has_a_gradient():
    prototypes = torch.zeros(2, 2, requires_grad=True)
    apart(torch.zeros(1, 2), torch.tensor([0]), prototypes, 1.0).backward()
    assert torch.isfinite(prototypes.grad).all()  # type: ignore[arg-type]


def test_one_round_at_the_server():
    """Trained on what came, from what there was; sent as they are after the step."""
    options = {"server-epochs": 200, "server-lr": 0.05, "margin": 1.0}
    start = server(**options)
    base = fedtgp.train(start.broadcast(1, 0), device())
    assert start.broadcast(1, 0).prototypes.specs == ()
    losses = []
    for round in (1, 2):
        replies = Replies(start)
        take(replies, 0, fedtgp.train(start.broadcast(round, 0), device()))
        losses.append(start.step(round, replies)["server_loss"])
    assert losses[1] < losses[0]
    sent = start.broadcast(3, 0).prototypes
    assert sent.specs == tuple((str(c), (K,), "float32") for c in range(3))
    net = start._build()
    load_state(net, start.generator)
    np.testing.assert_array_equal(
        np.stack([*sent.unpack().values()]), net(torch.arange(3)).detach().numpy()
    )
    assert size(pack(base)) == 3 * K * 4


def test_parameters_at_the_server_are_as_published():
    start = Server(Settings(), setup())
    assert len(start.generator) == 3 * 512 + 2 * (512 * 512 + 512)


def test_devices_learn_as_in_fedproto():
    one, other = device(), device()
    start, plain = server(), fedproto_server.Server(fedproto_server.Settings(width=K), setup())
    start.prototypes = plain.prototypes = Tensors.pack({"1": np.ones(K, np.float32)})
    mine = fedtgp.train(start.broadcast(1, 0), one)
    theirs = fedproto.train(plain.broadcast(1, 0), other)
    np.testing.assert_array_equal(mine.prototypes.vector, theirs.prototypes.vector)
