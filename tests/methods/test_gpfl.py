"""GPFL: one step by autograd, from the equations; what stays and what travels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from client_app.methods import gpfl
from common.models import parts
from common.models.conditional import Valve
from server_app.methods import gpfl as half
from tests.personal import TASK, answers, device, run, server

STEP = {"sgd": {"lr": 0.1, "batch-size": 0, "epochs": 1}}
HEAD = {f"network.{name}" for name in parts.head_names(TASK.build())}


def valve(w: dict[str, Tensor], f: Tensor, context: Tensor) -> Tensor:
    """The equations, from named parameters."""

    def through(name: str) -> Tensor:
        hidden = F.relu(F.linear(context, w[f"valve.{name}.0.weight"], w[f"valve.{name}.0.bias"]))
        width = (len(context),)
        return F.layer_norm(hidden, width, w[f"valve.{name}.2.weight"], w[f"valve.{name}.2.bias"])

    return F.relu((through("gamma") + 1) * f + through("beta"))


def expected_loss(w: dict[str, Tensor], one: Any, magnitude: float, decay: float) -> Tensor:
    network = TASK.build()
    body, _ = parts.split(network)
    named = {n.removeprefix("network."): p for n, p in w.items() if n.startswith("network.")}
    images, labels = one.images
    f = torch.func.functional_call(body, {n: named[n] for n, _ in body.named_parameters()}, images)
    fixed = w["classes"].detach()
    shares = torch.tensor([float((labels == c).sum()) / len(labels) for c in range(3)])
    general = valve(w, f, fixed.mean(0))
    personal = valve(w, f, (shares[:, None] * fixed).sum(0))
    head = sorted(parts.head_names(network))
    logits = F.linear(personal, named[head[1]], named[head[0]])
    cosines = torch.stack([F.cosine_similarity(general, e[None]) for e in w["classes"]], 1)
    pushed = -F.log_softmax(cosines, 1)[torch.arange(len(labels)), labels].mean()
    apart = torch.stack(
        [(g - fixed[y]).norm() for g, y in zip(general, labels, strict=True)]
    ).mean()
    shared = [p for n, p in w.items() if not n.startswith("network.")]
    squares = torch.stack([p.square().sum() for p in shared]).sum()
    return F.cross_entropy(logits, labels) + pushed + magnitude * apart + decay / 2 * squares


@pytest.mark.parametrize(("magnitude", "decay"), [(0.01, 0.1), (2.0, 0.0), (0.0, 0.5)])
def test_one_step_by_autograd(magnitude: float, decay: float):
    one = device(n=13)
    start = server(half, STEP | {"lambda": magnitude, "mu": decay})
    down = start.broadcast(1, 0)
    w = {n: torch.tensor(a, requires_grad=True) for n, a in down.model.unpack().items()}
    loss = expected_loss(w, one, magnitude, decay)
    slopes = dict(zip(w, torch.autograd.grad(loss, [*w.values()]), strict=True))
    up = gpfl.train(down, one)
    assert up.loss == pytest.approx(loss.item(), rel=1e-4)
    change = up.change.unpack()
    assert change.keys() == w.keys() - HEAD
    assert up.buffers.specs == (), "the client's classes are nobody else's business"
    for name, moved in change.items():
        np.testing.assert_allclose(moved, -0.1 * slopes[name].numpy(), atol=2e-5, err_msg=name)
    kept = one.memory.read("gpfl")[0]["own"].unpack()  # type: ignore[index]
    assert kept.keys() == HEAD
    for name, value in kept.items():
        expected = (w[name] - 0.1 * slopes[name]).detach().numpy()
        np.testing.assert_allclose(value, expected, atol=2e-5, err_msg=name)


def test_a_closed_valve_changes_nothing_but_the_sign():
    shut = Valve(6)
    for layer in (shut.gamma[2], shut.beta[2]):
        layer.weight.data.zero_()
    features = torch.randn(4, 6)
    assert torch.equal(shut(features, torch.randn(6)), features.relu())


def test_the_personal_model_knows_the_clients_shares():
    """It is the same on a device without its images, as when it is exported."""
    found, devices = run(half, gpfl.train, {}, range(1, 3))
    one, down = devices[0], found.broadcast(3, 0)
    expected = answers(gpfl.personal(down, one, one.client, 0), one)
    bare = device(5)
    bare.memory = one.memory
    empty = bare.client.__class__(*[part[:0] for part in (
        bare.client.support_images, bare.client.support_labels,
        bare.client.query_images, bare.client.query_labels)], (), -1)  # fmt: skip
    np.testing.assert_array_equal(answers(gpfl.personal(down, bare, empty, 0), one), expected)
    stranger = device(9, role="target")
    other = [answers(gpfl.personal(down, stranger, stranger.clients[0], s), one) for s in (0, 5)]
    assert not np.allclose(*other)


def test_it_learns():
    settings = {"sgd": {"lr": 0.05, "batch-size": 5, "epochs": 4}}
    found, devices = run(half, gpfl.train, settings, range(1, 9))
    one = devices[2]
    module = gpfl.personal(found.broadcast(9, 2), one, one.client, 0)
    assert (answers(module, one).argmax(1) == one.images[1].numpy()).mean() > 0.8
