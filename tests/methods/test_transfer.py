"""Knowledge transfer alone, on a quadratic R_h = 1/2 (theta - c)' R (theta - c)."""

from __future__ import annotations

import numpy as np
import pytest

from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.method import Setup
from server_app.methods.transfer import Server, Settings
from tests.quadratic import QuadraticKnowledge

START = np.linspace(-1, 1, 5)


def server(knowledge: QuadraticKnowledge, **settings: float) -> Server:
    model = Tensors.pack({"theta": START.astype(np.float32)})
    return Server(Settings.model_validate(settings), Setup(model, knowledge=knowledge))


def test_one_step_goes_down_the_gradient_by_a_share_of_the_models_norm():
    knowledge = QuadraticKnowledge(4)
    one = server(knowledge, rate=0.1, steps=1)
    metrics = one.step(1, Replies(one))
    slope = knowledge.R @ (START - knowledge.c)
    length = 0.1 * np.linalg.norm(START)
    expected = START - length * slope / np.linalg.norm(slope)
    np.testing.assert_allclose(one.model.vector, expected, rtol=1e-5)
    assert metrics["step_norm"] == pytest.approx(length, rel=1e-5)
    assert "transfer_distance" in metrics


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_one_rate_serves_every_curvature(strength: float):
    """With a fixed step, the first of these would stand still and the last diverge."""
    knowledge = QuadraticKnowledge(4, strength=strength)
    one = server(knowledge)
    for round in range(1, 31):
        one.step(round, Replies(one))
    left = np.linalg.norm(one.model.vector - knowledge.c) / np.linalg.norm(START - knowledge.c)
    assert left < 0.05
