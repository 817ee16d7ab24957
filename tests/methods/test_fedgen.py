"""FedGen: whose head counts for a generated feature, what is generated, what devices make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.features import new_own
from client_app.methods import fedgen, lg_fedavg
from common.feature_generator import FeatureGenerator
from common.models.state import load_state, state_of
from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.methods import lg_fedavg as lg_server
from server_app.methods.fedgen import Server, Settings, alike, answer
from server_app.validation.errors import Rejected
from tests.own_devices import device, setup
from tests.quadratic import take

K = 6


def server(**options: Any) -> Server:
    options = {"width": K, "noise": 4, "hidden": 8, **options}
    return Server(Settings.model_validate(options), setup())


def own_vector(one: Any, name: str = "fedgen") -> np.ndarray:
    return one.memory.read(name)[0]["own"].vector


def test_a_head_counts_for_a_class_by_its_images_of_it():
    # Two clients, two classes, features of one number: heads z -> (z, 0) and z -> (0, z) + (1, 1).
    heads = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    counts = torch.tensor([[3.0, 0.0], [1.0, 5.0]])
    made, labels = torch.tensor([[2.0], [4.0]]), torch.tensor([0, 1])
    expected = [[0.75 * 2 + 0.25 * 1, 0.25 * 3], [1.0, 5.0]]
    torch.testing.assert_close(answer(made, labels, heads, counts), torch.tensor(expected))


def test_alike_by_hand():
    noise, made = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0, 1.0], [1.0, 4.0]])
    # Two of four pairs differ: |eps - eps'| = 2, mean |z - z'| = 1.5.
    assert alike(noise, made).item() == pytest.approx(np.exp(-2 * 3.0 / 4))
    assert alike(noise, torch.ones(2, 3)).item() == 1.0


def test_parameters_of_the_generator_are_as_published():
    made = FeatureGenerator(32, 100, 512, 512)
    assert sum(p.numel() for p in made.parameters()) == 331_776


def test_heads_are_averaged_and_shares_are_those_of_all_images():
    start = server(**{"server-steps": 1})
    before, base = start.head.vector.copy(), fedgen.train(start.broadcast(1, 0), device())
    replies = Replies(start)
    for client, (n, counts) in enumerate(((10, [1, 1, 0]), (30, [0, 0, 7]))):
        change = base.change.with_vector(np.full(len(base.change), 1.0 + client, np.float32))
        told = Tensors.pack({"images": np.array(counts)})
        take(replies, client, replace(base, examples=n, change=change, counts=told))
    start.step(1, replies)
    np.testing.assert_allclose(start.head.vector, before + (10 * 1 + 30 * 2) / 40, rtol=1e-5)
    assert start.shares == pytest.approx([5 / 40, 5 / 40, 30 / 40])


@pytest.mark.parametrize("counts", [[0, 0, 0], [-1, 5, 5], [10**9, 0, 0]])
def test_numbers_of_images_that_cannot_be_are_refused(counts: list[int]):
    start = server()
    up = fedgen.train(start.broadcast(1, 0), device())
    with pytest.raises(Rejected, match="counts"):
        take(Replies(start), 0, replace(up, counts=Tensors.pack({"images": np.array(counts)})))


def test_what_is_generated_suits_the_heads():
    start = server(**{"server-steps": 400, "diversity": 0.1, "sgd": {"lr": 0.3}})
    devices = [device(labels=(0, 1)), device("resnet8x4", labels=(2,), seed=1)]
    for round in range(1, 4):
        replies = Replies(start)
        for client, one in enumerate(devices):
            take(replies, client, fedgen.train(start.broadcast(round, client), one))
        start.step(round, replies)
    net = FeatureGenerator(4, 3, 8, K).eval()
    load_state(net, start.generator)
    labels = torch.arange(3).repeat(20)
    made = net(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), labels)
    head = {name: torch.tensor(np.array(a)) for name, a in start.head.unpack().items()}
    right = (F.linear(made, head["weight"], head["bias"]).argmax(1) == labels).float().mean()
    assert right > 0.8


def test_one_step_by_autograd():
    one, start = device(), server(**{"lambda": 2.0, "sgd": {"lr": 0.1, "batch-size": 0}})
    net = FeatureGenerator(4, 3, 8, K).eval()
    start.generator, start.shares = state_of(net), [0.0, 0.0, 1.0]
    down = start.broadcast(1, 0)
    own = new_own(one, down.seed, K)
    own.load_head(down.head)
    images, labels = one.images
    drawn = torch.full((len(labels),), 2)
    with torch.random.fork_rng():
        torch.manual_seed(down.seed)
        torch.multinomial(torch.tensor(down.shares), len(labels), replacement=True)
        noise = torch.randn(len(labels), 4)
    made = F.cross_entropy(own.module.head(net(noise, drawn).detach()), drawn)
    hard = F.cross_entropy(own.module(images), labels)
    slope = torch.autograd.grad(hard + 2.0 * made, [*own.module.parameters()])
    up = fedgen.train(down, one)
    moved = own_vector(one) - own.parameters.vector
    expected = torch.cat([g.flatten() for g in slope]).numpy()
    np.testing.assert_allclose(moved, -0.1 * expected, atol=1e-6)
    assert up.loss == pytest.approx(hard.item())
    np.testing.assert_array_equal(up.counts.unpack()["images"], [4, 4, 4])


def test_before_there_is_a_generator_it_is_lg_fedavg():
    one, other = device(), device()
    plain = lg_server.Server(lg_server.Settings(width=K), setup())
    mine = fedgen.train(server().broadcast(1, 0), one)
    theirs = lg_fedavg.train(plain.broadcast(1, 0), other)
    np.testing.assert_array_equal(mine.change.vector, theirs.change.vector)
    np.testing.assert_array_equal(own_vector(one), own_vector(other, "lg_fedavg"))
