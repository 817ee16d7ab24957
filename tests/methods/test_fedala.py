"""FedALA: without weights it is FedAvg; one step of the weights by autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.methods import fedala
from common.models import parts
from common.tensors import Tensors
from server_app.methods import fedala as half
from tests.personal import TASK, answers, device, fedavg, run, server

HEAD = sorted(parts.head_names(TASK.build()))
STILL = {"lr": 1e-12, "batch-size": 0, "epochs": 1}


def kept(one: Any) -> dict[str, Tensors]:
    return one.memory.read("fedala")[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("settings", [{"weight-epochs": 0, "first-epochs": 0}, {"layers": 0}])
@pytest.mark.parametrize("architecture", ["cnn-tiny", "resnet8x4"])
def test_without_weights_it_is_fedavg(settings: dict[str, Any], architecture: str):
    found, _ = run(half, fedala.train, settings, range(1, 3), architecture)
    expected = fedavg(range(1, 3), architecture=architecture)
    np.testing.assert_array_equal(found.model.vector, expected.model.vector)


def moved() -> tuple[Any, Any, Tensors]:
    """A client with a local model, and a server whose model is another."""
    one, start = (
        device(),
        server(half, {"share": 1.0, "weight-lr": 3.0, "first-epochs": 1, "sgd": STILL}),
    )
    far = start.model.with_vector(start.model.vector + 0.3)
    fedala.train(start.broadcast(1, 0, model=far), one)
    return one, start, far


def test_one_step_of_the_weights_and_the_mixture_by_autograd():
    one, start, local = moved()
    up = fedala.train(start.broadcast(2, 0), one)
    network = TASK.build()
    head = {name: p for name, p in network.named_parameters() if name in HEAD}
    images, labels = one.images
    loss = F.cross_entropy(network(images), labels)  # with W = 1 the mixture is the global model
    slopes = dict(zip(head, torch.autograd.grad(loss, [*head.values()]), strict=True))
    theirs, shares = local.unpack(), []
    for name, parameter in network.named_parameters():
        expected = parameter.detach().numpy()
        if name in head:
            apart = expected - theirs[name]
            weights = np.clip(1 - 3.0 * slopes[name].numpy() * apart, 0, 1)
            expected = theirs[name] + apart * weights
            shares.append((1 - weights).ravel())
        got = kept(one)["own"].unpack()[name]
        np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=name)
    assert 0 < up.own_share == pytest.approx(float(np.concatenate(shares).mean()), rel=1e-3)


def test_weights_go_on_from_round_to_round():
    one, start, _ = moved()
    first = fedala.train(start.broadcast(2, 0), one).own_share
    weights = kept(one)["weights"].vector
    again = fedala.train(start.broadcast(3, 0), one)
    assert len(weights) == sum(p.numel() for p in parts.head(TASK.build()).parameters())
    assert again.own_share >= first
    assert not np.array_equal(kept(one)["weights"].vector, weights)


def test_the_first_time_ends_even_if_losses_never_settle():
    one, start = device(), server(half, {"settled": 0.0, "first-epochs": 30, "sgd": STILL})
    fedala.train(start.broadcast(1, 0), one)
    fedala.train(start.broadcast(2, 0), one)


def test_the_model_of_a_source_and_of_a_new_client():
    found, devices = run(half, fedala.train, {}, range(1, 3))
    down, one = found.broadcast(3, 0), devices[0]
    one.model.load_tensors(kept(one)["own"])
    expected = answers(one.model.module, one)
    np.testing.assert_array_equal(answers(fedala.personal(down, one, one.client, 4), one), expected)
    stranger = device(9, role="target")
    for steps in (0, 3):
        fedala.personal(down, stranger, stranger.clients[0], steps)
        same = np.array_equal(stranger.model.vector.numpy(), found.model.vector)
        assert same == (not steps)
