"""FedProto: prototypes and their pull by hand, and what of it crosses the wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.features import new_own
from client_app.methods import fedproto
from common.tensors import Tensors
from common.wire import pack, size
from server_app.aggregation.replies import Replies
from server_app.methods.fedproto import Server, Settings
from tests.own_devices import device, setup
from tests.quadratic import take

K = 6


def server(**options: Any) -> Server:
    return Server(Settings.model_validate({"width": K, **options}), setup())


def own_vector(one: Any) -> np.ndarray:
    return one.memory.read("fedproto")[0]["own"].vector


def test_one_step_by_autograd():
    """CE + lambda times the mean squared distance to the prototypes that there are."""
    one, start = device(), server(**{"lambda": 3.0, "sgd": {"lr": 0.1, "batch-size": 0}})
    centres = np.arange(2 * K, dtype=np.float32).reshape(2, K)
    start.prototypes = Tensors.pack({"0": centres[0], "2": centres[1]})  # none of class 1
    down = start.broadcast(1, 0)
    own = new_own(one, down.seed, K)
    images, labels = one.images
    features = own.module.features(images)
    hard = F.cross_entropy(own.module.head(features), labels)
    away = torch.zeros(())
    for label, centre in zip((0, 2), torch.tensor(centres), strict=True):
        away = away + ((features[labels == label] - centre) ** 2).sum()
    goal = hard + 3.0 * away / (len(labels) * K)
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(goal, [*own.module.parameters()])])
    up = fedproto.train(down, one)
    assert up.loss == pytest.approx(hard.item())
    moved = own_vector(one) - own.parameters.vector
    np.testing.assert_allclose(moved, -0.1 * slope.numpy(), atol=1e-6)


def test_prototypes_are_mean_features_of_the_trained_model():
    one = device(labels=(0, 2))
    down = server().broadcast(1, 0)
    up = fedproto.train(down, one)
    own = new_own(one, 0, K)
    own.load(torch.tensor(own_vector(one)))
    images, labels = one.images
    sent = up.prototypes.unpack()
    assert list(sent) == ["0", "2"]
    for label, array in sent.items():
        mine = own.module.eval().features(images[labels == int(label)]).mean(0)
        np.testing.assert_allclose(array, mine.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [(0,), (0, 2), (0, 1, 2)])
def test_bytes_up_are_classes_held_times_width_times_four(labels: tuple[int, ...]):
    up = fedproto.train(server().broadcast(1, 0), device(labels=labels))
    assert size(pack(up)) == len(labels) * K * 4


def test_the_server_takes_the_plain_mean_over_those_that_hold_a_class():
    start = server()
    rows = np.arange(4 * K, dtype=np.float32).reshape(4, K)
    replies = Replies(start)
    base = fedproto.train(start.broadcast(1, 0), device())
    small = replace(base, examples=1, prototypes=Tensors.pack({"0": rows[0], "1": rows[1]}))
    large = replace(base, examples=99, prototypes=Tensors.pack({"1": rows[2]}))
    for client, up in enumerate((small, large)):
        take(replies, client, up)
    assert start.step(1, replies) == {"classes": 2.0}
    found = start.prototypes.unpack()
    np.testing.assert_array_equal(found["0"], rows[0])
    np.testing.assert_array_equal(found["1"], (rows[1] + rows[2]) / 2)
    later = Replies(start)
    take(later, 0, replace(base, round=2, prototypes=Tensors.pack({"1": rows[3]})))
    start.step(2, later)
    np.testing.assert_array_equal(start.prototypes.unpack()["0"], rows[0], "nobody has held it")


def test_the_answer_is_the_nearest_prototype_and_never_a_class_without_one():
    one, start = device(), server()
    down = start.broadcast(1, 0)
    fedproto.train(down, one)
    images, _ = one.images
    own = new_own(one, 0, K)
    own.load(torch.tensor(own_vector(one)))
    features = own.module.eval().features(images)
    first = fedproto.personal(down, one, one.client, 0).eval()
    np.testing.assert_array_equal(first(images).argmax(1), own.module.head(features).argmax(1))
    centres = features[:2].detach() + 0.01
    start.prototypes = Tensors.pack({"0": centres[0].numpy(), "2": centres[1].numpy()})
    scores = fedproto.personal(start.broadcast(2, 0), one, one.client, 0).eval()(images)
    near = torch.cdist(features, centres).argmin(1)
    np.testing.assert_array_equal(scores.argmax(1), torch.tensor([0, 2])[near])
    assert not (scores.argmax(1) == 1).any()
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("architecture", ["cnn-tiny", "cnn-small", "resnet8x4"])
def test_features_of_all_architectures_are_as_wide(architecture: str):
    for width in (K, 512):
        down = server(width=width).broadcast(1, 0)
        up = fedproto.train(down, device(architecture))
        assert {shape for _, shape, _ in up.prototypes.specs} == {(width,)}


def test_without_pull_it_is_training_alone():
    one, other, start = device(), device(), server(**{"lambda": 0.0})
    fedproto.train(start.broadcast(1, 0), one)
    start.prototypes = Tensors.pack({"0": np.full(K, 9, np.float32)})
    fedproto.train(start.broadcast(1, 0), other)
    np.testing.assert_array_equal(own_vector(one), own_vector(other))
