"""The finite-difference meta-gradient against autograd's exact one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from client_app.meta import meta_gradient

ALPHA = 0.4


class Smooth:
    """A small smooth network in float64, so that only the method's own error remains."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        self.names = [name for name, _ in self.net.named_parameters()]
        self.shapes = [p.shape for p in self.net.parameters()]

    def loss(self, vector: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        parts = vector.split([s.numel() for s in self.shapes])
        named = {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}
        return F.cross_entropy(functional_call(self.net, named, (batch[0],)), batch[1])

    def gradient(self, vector: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float]:
        free = vector.clone().requires_grad_()
        value = self.loss(free, batch)
        return torch.autograd.grad(value, free)[0], float(value)


@pytest.fixture(scope="module")
def case():
    model = Smooth()
    theta = torch.randn(sum(s.numel() for s in model.shapes), dtype=torch.float64)
    support = (torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0]))
    query = (torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 1]))
    free = theta.clone().requires_grad_()
    (inner,) = torch.autograd.grad(model.loss(free, support), free, create_graph=True)
    value = model.loss(free - ALPHA * inner, query)
    (exact,) = torch.autograd.grad(value, free)
    return model, theta, support, query, exact, float(value)


def error(case, delta: float, difference: str) -> float:
    model, theta, support, query, exact, _ = case
    meta = meta_gradient(
        model, theta, support, query, alpha=ALPHA, delta=delta, difference=difference
    )
    return float((meta.vector - exact).norm())


def test_vanishing_delta_gives_the_exact_maml_gradient(case):
    assert error(case, 1e-4, "central") < 1e-8
    assert error(case, 1e-6, "forward") < 1e-5


@pytest.mark.parametrize(("difference", "order"), [("central", 2), ("forward", 1)])
def test_order_of_the_error(case, difference: str, order: int):
    ratio = error(case, 2e-2, difference) / error(case, 1e-2, difference)
    assert ratio == pytest.approx(2**order, rel=0.1)


def test_forward_bias_is_the_stated_one(case):
    """-alpha (delta / 2) D^3 L[r, r], by a second difference of Hessian products."""
    model, theta, support, query, exact, _ = case
    delta = 1e-3
    start, _ = model.gradient(theta, support)
    r, _ = model.gradient(theta - ALPHA * start, query)
    step = 1e-3
    third = (
        model.gradient(theta + step * r, support)[0]
        - 2 * start
        + model.gradient(theta - step * r, support)[0]
    ) / step**2
    meta = meta_gradient(
        model, theta, support, query, alpha=ALPHA, delta=delta, difference="forward"
    )
    bias = -ALPHA * delta / 2 * third
    assert float((meta.vector - exact - bias).norm()) < 0.01 * float(bias.norm())


def test_loss_and_curvature(case):
    model, theta, support, query, _, value = case
    meta = meta_gradient(
        model, theta, support, query, alpha=ALPHA, delta=1e-4, difference="central"
    )
    assert meta.loss == pytest.approx(value)
    start, _ = model.gradient(theta, support)
    r, _ = model.gradient(theta - ALPHA * start, query)
    product = torch.autograd.functional.hvp(lambda v: model.loss(v, support), theta, r)[1]
    assert meta.curvature == pytest.approx(float(product.norm() / r.norm()), rel=1e-4)


def test_gradients_evaluated(case):
    model, theta, support, query, *_ = case
    calls = []

    class Counting:
        def gradient(self, vector, batch):
            calls.append(1)
            return model.gradient(vector, batch)

    for difference, expected in (("central", 4), ("forward", 3), ("none", 2)):
        meta_gradient(
            Counting(), theta, support, query, alpha=ALPHA, delta=0.01, difference=difference
        )
        assert len(calls) == expected
        calls.clear()
