"""FML: two models side by side, one of which stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.device import Device
from client_app.methods import fedavg, fml
from common.data.client import ClientData
from common.models import FlatModel, build
from server_app.aggregation.replies import Replies
from server_app.method import Setup
from server_app.methods import fedavg as fedavg_server
from server_app.methods.fml import Server, Settings
from tests.quadratic import DictMemory, take


def device(own_model: str = "cnn-tiny", n: int = 12, seed: int = 0) -> Device:
    dice = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(n, 1, 8, 8, generator=dice), torch.arange(n) % 3
    data = ClientData(images[:4], labels[:4], images[4:], labels[4:], (0, 1, 2), 0)
    model = FlatModel(build("cnn-tiny", classes=3, channels=1, image_size=8))
    memory: Any = DictMemory()
    return Device("source", [data], ("a", "b", "c"), "", model, memory, own_model)


def server(model: FlatModel, alpha: float = 0.5, beta: float = 0.5, **sgd: Any) -> Server:
    settings = {"alpha": alpha, "beta": beta, "sgd": sgd}
    return Server(Settings.model_validate(settings), Setup(model.parameters, model.buffers))


def own_vector(one: Device) -> np.ndarray:
    return one.memory.read("fml")[0]["own"].vector  # type: ignore[index]


def test_one_step_by_autograd():
    """Each loss moves its own model, with the other's answer held fixed."""
    one, alpha, beta, lr = device(), 0.3, 0.6, 0.05
    start = server(one.model, alpha=alpha, beta=beta, lr=lr)
    down = start.broadcast(1, 0)
    shared = build("cnn-tiny", classes=3, channels=1, image_size=8)
    own = build("cnn-tiny", classes=3, channels=1, image_size=8, seed=down.seed)
    images, labels = one.images
    theirs, mine = shared(images), own(images)

    def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        p = F.softmax(p, 1)
        return (p * (p.log() - F.log_softmax(q, 1))).sum(1).mean()

    goal = beta * F.cross_entropy(theirs, labels) + (1 - beta) * divergence(mine.detach(), theirs)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(goal, [*shared.parameters()])])
    own_goal = alpha * F.cross_entropy(mine, labels) + (1 - alpha) * divergence(
        theirs.detach(), mine
    )
    own_expected = torch.autograd.grad(own_goal, [*own.parameters()])
    up = fml.train(down, one)
    np.testing.assert_allclose(up.change.vector, -lr * expected.numpy(), atol=1e-6)
    moved = own_vector(one) - FlatModel(own).parameters.vector
    step = torch.cat([g.flatten() for g in own_expected])
    np.testing.assert_allclose(moved, -lr * step.numpy(), atol=1e-6)
    assert up.loss == pytest.approx(F.cross_entropy(theirs, labels).item(), rel=1e-5)
    assert up.own_loss == pytest.approx(F.cross_entropy(mine, labels).item(), rel=1e-5)


def test_without_mutual_learning_it_is_fedavg():
    one, other = device(), device()
    options = {"lr": 0.05, "momentum": 0.9, "epochs": 2, "batch-size": 5}
    plain = fedavg_server.Server(
        fedavg_server.Settings.model_validate({"sgd": options}), Setup(other.model.parameters)
    )
    up = fml.train(server(one.model, alpha=1.0, beta=1.0, **options).broadcast(1, 0), one)
    expected = fedavg.train(plain.broadcast(1, 0), other)
    np.testing.assert_allclose(up.change.vector, expected.change.vector, atol=1e-7)


def test_the_own_model_goes_on_from_round_to_round():
    one = device()
    start = server(one.model, lr=0.2)
    losses = []
    for round in range(1, 25):
        up = fml.train(start.broadcast(round, 0), one)
        losses.append(up.own_loss)
        replies = Replies(start)
        take(replies, 0, up)
        assert start.step(round, replies)["own_loss"] == pytest.approx(up.own_loss)
    assert losses[-1] < 0.7 * losses[0]
    kept = own_vector(one)
    one.memory.kept.clear()  # type: ignore[attr-defined]
    assert fml.train(start.broadcast(25, 0), one).own_loss > losses[-1]
    assert not np.allclose(own_vector(one), kept)


def test_the_own_model_may_be_of_any_architecture_and_does_not_travel():
    one = device("resnet8x4")
    up = fml.train(server(one.model).broadcast(1, 0), one)
    assert up.change.specs == one.model.parameters.specs
    assert len(own_vector(one)) > 10 * len(up.change)
    one.own_model = "cnn-tiny"  # the owner has chosen another: it begins anew
    fml.train(server(one.model).broadcast(2, 0), one)
    assert len(own_vector(one)) == len(up.change)


def test_all_clients_count_the_same():
    small, large = device(n=6, seed=1), device(n=24, seed=2)
    start = server(small.model)
    before = start.model.vector.copy()
    ups = [fml.train(start.broadcast(1, node), one) for node, one in enumerate((small, large))]
    replies = Replies(start)
    for node, up in enumerate(ups):
        take(replies, node, up)
    start.step(1, replies)
    mean = (ups[0].change.vector + ups[1].change.vector) / 2
    np.testing.assert_allclose(start.model.vector, before + mean, atol=1e-7)
