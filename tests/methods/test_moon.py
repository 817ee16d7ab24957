"""MOON: without its weight it is FedAvg; the contrastive loss by autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.methods import moon
from common.models import FlatModel, features_and_logits
from server_app.methods import moon as half
from tests.personal import TASK, device, fedavg, run, server


@pytest.mark.parametrize("architecture", ["cnn-tiny", "resnet8x4"])
def test_without_mu_it_is_fedavg(architecture: str):
    found, _ = run(half, moon.train, {"mu": 0.0}, range(1, 4), architecture)
    expected = fedavg(range(1, 4), architecture=architecture)
    np.testing.assert_array_equal(found.model.vector, expected.model.vector)


def test_the_first_time_there_is_nothing_to_contrast():
    """Both models are the global one: the gradient of the contrast vanishes, its value is log 2."""
    one, other = device(), device()
    step = {"sgd": {"lr": 0.1, "batch-size": 0, "epochs": 1}}
    up = moon.train(server(half, step | {"mu": 5.0}).broadcast(1, 0), one)
    plain = moon.train(server(half, step | {"mu": 0.0}).broadcast(1, 0), other)
    assert up.contrastive_loss == pytest.approx(math.log(2), rel=1e-5)
    np.testing.assert_allclose(up.change.vector, plain.change.vector, atol=1e-6)


def test_one_step_by_autograd():
    one = device()
    settings = {"mu": 2.0, "temperature": 0.3, "sgd": {"lr": 0.1, "batch-size": 0, "epochs": 1}}
    start = server(half, settings)
    previous = start.model.with_vector(
        np.random.default_rng(0).normal(0, 0.2, len(start.model)).astype(np.float32)
    )
    still = server(half, {"sgd": {"lr": 1e-12}})
    moon.train(still.broadcast(1, 0, model=previous), one)
    up = moon.train(start.broadcast(2, 0), one)
    images, labels = one.images
    network, there, before = TASK.build(), TASK.build(), FlatModel(TASK.build())
    before.load_tensors(previous)
    z, logits = features_and_logits(network, images)
    with torch.no_grad():
        far, near = (
            features_and_logits(before.module, images)[0],
            features_and_logits(there, images)[0],
        )
    ratio = [torch.exp(F.cosine_similarity(z, each) / 0.3) for each in (near, far)]
    contrast = -(ratio[0] / (ratio[0] + ratio[1])).log().mean()
    loss = F.cross_entropy(logits, labels) + 2.0 * contrast
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*network.parameters()])])
    np.testing.assert_allclose(up.change.vector, -0.1 * slope.numpy(), atol=1e-5)
    assert up.contrastive_loss == pytest.approx(contrast.item(), rel=1e-4)
    assert up.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
