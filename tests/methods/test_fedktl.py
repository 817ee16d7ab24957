"""FedKTL: class vectors, margin and discrepancy by hand; what the server makes of prototypes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.margin import with_margin
from client_app.methods import fedktl
from common.discrepancy import mmd
from common.models.state import load_state
from common.task import Task
from common.tensors import Tensors
from common.wire import pack, size
from server_app.aggregation.replies import Replies
from server_app.method import Setup
from server_app.methods.fedktl import Server, Settings, class_vectors
from tests.own_devices import device, setup
from tests.quadratic import take

K = 6


class Tiles:
    """Latents of 4 numbers, half the noise; an image is its latent, tiled."""

    noise = 4

    def latents(self, noise: torch.Tensor) -> torch.Tensor:
        return noise / 2

    def images(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat(1, 16).view(-1, 1, 8, 8)


def server(**options: Any) -> Server:
    settings = Settings.model_validate({"width": K, **options})
    return Server(settings, replace(setup(), generator=Tiles()))


def own_vector(one: Any) -> np.ndarray:
    return one.memory.read("fedktl")[0]["own"].vector


def with_prototypes(base: Any, **rows: list[float]) -> Any:
    made = {name[1:]: np.array(row, np.float32) for name, row in rows.items()}
    return replace(base, prototypes=Tensors.pack(made))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_class_vectors_are_as_far_apart_as_can_be(classes: int):
    vectors = class_vectors(classes, 7)
    cosines = vectors.T @ vectors
    wanted = np.where(np.eye(classes), 1.0, -1 / (classes - 1))
    np.testing.assert_allclose(cosines, wanted, atol=1e-6)


def test_the_margin_widens_the_angle_of_the_own_class():
    angles = torch.tensor([[0.3, 1.0], [2.0, 0.0]])
    found = with_margin(angles.cos(), torch.tensor([0, 1]), 0.5)
    expected = torch.tensor([[0.8, 1.0], [2.0, 0.5]]).cos()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    far = with_margin(torch.tensor([[-0.99]]), torch.tensor([0]), 0.5)
    assert far.item() == pytest.approx(-0.99 - 0.5 * math.sin(0.5))


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_the_margin_has_a_gradient_where_the_angle_has_none(cosine: float):
    value = torch.tensor([[cosine, 0.0]], requires_grad=True)
    with_margin(value, torch.tensor([0]), 0.5).sum().backward()
    assert torch.isfinite(value.grad).all()  # type: ignore[arg-type]


def test_the_discrepancy_of_two_points():
    one, other = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    kernels = [math.exp(-12.5 / width) for width in (10, 15, 20, 50)]
    assert mmd(one, other).item() == pytest.approx(8 - 2 * np.sum(kernels), rel=1e-5)
    assert mmd(other, other).item() == 0.0


def test_one_step_by_autograd():
    one = device()
    start = server(**{"mu": 3.0, "scale": 8.0, "generated-batch": 9,
                      "sgd": {"lr": 0.1, "batch-size": 0}})  # fmt: skip
    latents = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]])
    images = Tiles().images(latents)
    start.pairs = Tensors.pack({"images": images.numpy(), "latents": latents.numpy()})
    down = start.broadcast(2, 0)
    flat, module = fedktl._new(one, down, down.seed)
    inputs, labels = one.images
    u = module.own(inputs)
    cosine = (u / u.norm(dim=1, keepdim=True)) @ torch.tensor(class_vectors(3, 0))
    wider = (cosine.acos() + 0.5 * F.one_hot(labels, 3)).cos()
    hard = F.cross_entropy(8.0 * wider, labels)
    away = ((module.project(module.own.features(images)) - latents) ** 2).mean()
    slope = torch.autograd.grad(hard + 3.0 * away, [*module.parameters()])
    before = flat.parameters.vector
    up = fedktl.train(down, one)
    step = torch.cat([g.flatten() for g in slope]).numpy()
    np.testing.assert_allclose(own_vector(one) - before, -0.1 * step, atol=1e-5)
    assert up.loss == pytest.approx(hard.item(), rel=1e-5)
    assert {np.linalg.norm(row).round(5) for row in up.prototypes.unpack().values()} == {1.0}


def test_places_are_means_of_what_came_and_images_are_made_of_them():
    start = server(**{"server-epochs": 3})
    before = np.array(start.places.unpack()["places"])
    base = fedktl.train(start.broadcast(1, 0), device())
    replies = Replies(start)
    take(replies, 0, with_prototypes(base, p0=[1, 0, 0], p2=[0, 0, 1]))
    take(replies, 1, with_prototypes(base, p2=[0, 0, 4]))  # of length 4: taken as 1
    assert start.step(1, replies)["server_loss"] > 0
    net = start._build().eval()
    load_state(net, start.transformer)
    with torch.no_grad():
        found = net(torch.tensor([[1.0, 0, 0], [0, 0, 1]])).numpy()
    pairs = start.pairs.unpack()
    np.testing.assert_allclose(pairs["latents"][[0, 2]], found, rtol=1e-5)
    np.testing.assert_array_equal(pairs["latents"][1], before[1], "nobody holds class 1")
    np.testing.assert_array_equal(
        pairs["images"], Tiles().images(torch.tensor(np.array(pairs["latents"]))).numpy()
    )


def test_one_prototype_alone_is_no_error():
    start = server()
    base = fedktl.train(start.broadcast(1, 0), device())
    replies = Replies(start)
    take(replies, 0, with_prototypes(base, p1=[0, 1, 0]))
    start.step(1, replies)
    assert np.isfinite(start.pairs.unpack()["images"]).all()


def test_the_projector_begins_the_same_at_all_and_stays_at_each():
    start, one = server(), device()
    down = start.broadcast(1, 0)
    begun = [
        fedktl._new(d, down, s)[1].project.weight for d, s in ((one, 1), (device("resnet8x4"), 2))
    ]
    torch.testing.assert_close(*begun)
    latents = torch.ones(3, 4)
    start.pairs = Tensors.pack(
        {"images": Tiles().images(latents).numpy(), "latents": latents.numpy()}
    )
    kept = []
    for round in (1, 2):
        fedktl.train(start.broadcast(round, 0), one)
        flat, module = fedktl._new(one, down, 1)
        flat.load(torch.tensor(own_vector(one)))
        kept.append(module.project.weight.detach().clone())
    assert not torch.equal(kept[0], begun[0])
    assert not torch.equal(kept[0], kept[1])


def test_traffic_is_as_published():
    """Up a vector of as many numbers as classes, each; down an image and a latent a class."""
    task = Task("cnn-tiny", 100, 3, 32)

    class Large(Tiles):
        noise = 512

        def images(self, latents: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(latents), 3, 32, 32)

    start = Server(Settings(), Setup(setup().model, task=task, generator=Large()))
    base = fedktl.train(server().broadcast(1, 0), device())
    rows = {str(c): np.eye(100, dtype=np.float32)[c] for c in range(45)}
    up = replace(base, prototypes=Tensors.pack(rows))
    replies = Replies(start)
    take(replies, 0, up)
    start.step(1, replies)
    assert size(pack(up)) == 4 * 45 * 100
    once = 100 * 100  # the class vectors
    assert size(pack(start.broadcast(2, 0))) == 4 * (100 * (3 * 32 * 32 + 512) + once)
