"""FedGH: one step of the server's head by hand, and what a device makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from client_app.methods import fedgh
from common.tensors import Tensors
from common.wire import pack, size
from server_app.aggregation.replies import Replies
from server_app.methods.fedgh import Server, Settings
from tests.own_devices import device, setup
from tests.quadratic import take

K = 6


def server(**options: Any) -> Server:
    return Server(Settings.model_validate({"width": K, **options}), setup())


def test_one_step_of_the_head_by_autograd():
    start = server(**{"server-lr": 0.2, "server-batch": 10, "server-epochs": 1})
    base = fedgh.train(start.broadcast(1, 0), device())
    rows = torch.randn(3, K, generator=torch.Generator().manual_seed(5))
    replies = Replies(start)
    for client, labels in enumerate(((0, 2), (2,))):
        mine = {str(c): rows[client + i].numpy() for i, c in enumerate(labels)}
        take(replies, client, replace(base, prototypes=Tensors.pack(mine)))
    before = {n: torch.tensor(np.array(a), requires_grad=True) for n, a in
              start.head.unpack().items()}  # fmt: skip
    goal = F.cross_entropy(
        rows[[0, 1, 1]] @ before["weight"].T + before["bias"], torch.tensor([0, 2, 2])
    )
    slopes = torch.autograd.grad(goal, [*before.values()])
    loss = start.step(1, replies)["server_loss"]
    assert abs(loss - goal.item()) < 1e-5
    for (name, old), slope in zip(before.items(), slopes, strict=True):
        np.testing.assert_allclose(
            start.head.unpack()[name], (old - 0.2 * slope).detach().numpy(), atol=1e-6
        )


def test_prototypes_up_and_a_head_down():
    down = server().broadcast(1, 0)
    assert size(pack(down)) == 4 * (3 * K + 3)
    assert size(pack(fedgh.train(down, device("resnet8x4", labels=(1, 2))))) == 2 * K * 4


def test_a_device_trains_under_the_head_that_it_is_sent():
    one, other, start = device(), device(), server()
    fedgh.train(start.broadcast(1, 0), one)
    fedgh.train(start.broadcast(1, 0), other)
    down = start.broadcast(2, 0)
    zero = replace(down, head=down.head.with_vector(np.zeros_like(down.head.vector)))
    assert fedgh.train(zero, one).loss != fedgh.train(down, other).loss
    # Under a head of zeros every class is as likely, in the first full batch.
    one, sgd = device(), down.sgd.model_copy(update={"batch_size": 0})
    assert abs(fedgh.train(replace(zero, sgd=sgd), one).loss - np.log(3)) < 1e-6
