"""FedCP: one step by autograd, from the equations; the discrepancy by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.methods import fedcp
from common.models import FlatModel, parts
from common.models.conditional import Separated
from server_app.methods import fedcp as half
from tests.personal import TASK, answers, device, run, server

STEP = {"sgd": {"lr": 0.1, "batch-size": 0, "epochs": 1}}
HEAD = {f"network.{name}" for name in parts.head_names(TASK.build())}


def test_the_discrepancy_by_hand():
    dice = np.random.default_rng(0)
    x, y = dice.normal(size=(2, 4, 3))

    def k(one: np.ndarray, other: np.ndarray) -> float:
        square = ((one - other) ** 2).sum()
        return float(sum(np.exp(-square / (2 * a)) for a in (10, 15, 20, 50)))

    def mean(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean([[k(p, q) for q in other] for p in one]))

    expected = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    assert float(fedcp.mmd(torch.tensor(x), torch.tensor(y))) == pytest.approx(expected, rel=1e-6)
    assert float(fedcp.mmd(torch.tensor(x), torch.tensor(x))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("pull", [0.0, 5.0])
def test_one_step_by_autograd(pull: float):
    """The second time, when personal and global heads differ."""
    one, start = device(), server(half, STEP | {"lambda": pull})
    far = start.network.with_vector(
        start.network.vector
        + np.random.default_rng(1).normal(0, 0.05, len(start.network)).astype(np.float32)
    )
    still = server(half, {"sgd": {"lr": 1e-12}})
    fedcp.train(still.broadcast(1, 0, model=far), one)
    down = start.broadcast(2, 0)
    first = down.model.merged(far.only(HEAD)).unpack()
    w = {name: torch.tensor(array, requires_grad=True) for name, array in first.items()}
    images, labels = one.images
    network = TASK.build()
    body, _ = parts.split(network)

    def features() -> torch.Tensor:
        named = {n: w[f"network.{n}"] for n, _ in body.named_parameters()}
        return torch.func.functional_call(body, named, images)  # type: ignore[no-any-return]

    bias, weight = (w[name] for name in sorted(HEAD))
    f, general = features(), features().detach()
    v = weight.detach().sum(0)
    hidden = F.linear(f * v / v.norm(), w["policy.layers.0.weight"], w["policy.layers.0.bias"])
    scale, shift = w["policy.layers.1.weight"], w["policy.layers.1.bias"]
    pairs = F.relu(F.layer_norm(hidden, hidden.shape[1:], scale, shift)).view(len(f), 2, -1)
    torch.manual_seed(down.seed)
    s = F.gumbel_softmax(pairs, tau=1.0, dim=1)[:, 1]
    logits = F.linear(s * f, weight, bias)
    logits = logits + F.linear((1 - s) * f, w["general.weight"], w["general.bias"])
    loss = F.cross_entropy(logits, labels) + pull * fedcp.mmd(f, general)
    moving = {name: p for name, p in w.items() if not name.startswith("general.")}
    slopes = dict(zip(moving, torch.autograd.grad(loss, [*moving.values()]), strict=True))
    up = fedcp.train(down, one)
    assert up.loss == pytest.approx(loss.item(), rel=1e-4)
    change = up.change.unpack()
    assert change.keys() == w.keys() - HEAD
    for name, moved in change.items():
        if name in moving:
            expected = -0.1 * slopes[name].numpy()
        else:  # half-way to the personal head
            personal = next(n for n in HEAD if n.endswith(name.rpartition(".")[2]))
            mine = (w[personal] - 0.1 * slopes[personal]).detach().numpy()
            expected = (mine - first[name]) / 2
        np.testing.assert_allclose(moved, expected, atol=2e-5, err_msg=name)


def test_at_first_both_heads_are_the_runs():
    """W s f + b + W (1 - s) f + b: whatever the policy says."""
    network = TASK.build()
    whole, (body, head) = Separated(network).eval(), parts.split(network)
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = head(body(images)) + head.bias
        np.testing.assert_allclose(whole(images), expected, atol=1e-5)


def test_a_model_in_use_draws_nothing_and_has_the_clients_head():
    found, devices = run(half, fedcp.train, {}, range(1, 3))
    one, down = devices[0], found.broadcast(3, 0)
    twice = [answers(fedcp.personal(down, one, one.client, 0), one) for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    module = fedcp.personal(down, one, one.client, 0)
    kept = one.memory.read("fedcp")[0]["own"]  # type: ignore[index]
    assert FlatModel(module).parameters.only(HEAD).vector.tobytes() == kept.vector.tobytes()
    stranger = device(9, role="target")
    other = [answers(fedcp.personal(down, stranger, stranger.clients[0], s), one) for s in (0, 5)]
    assert not np.allclose(*other)


def test_it_learns():
    settings = {"sgd": {"lr": 0.05, "batch-size": 5, "epochs": 4}}
    found, devices = run(half, fedcp.train, settings, range(1, 9))
    one = devices[2]
    module = fedcp.personal(found.broadcast(9, 2), one, one.client, 0)
    assert (answers(module, one).argmax(1) == one.images[1].numpy()).mean() > 0.8
