"""Knowledge transfer alone on a quadratic R_h: theta^t - c = (I - rate R)^t (theta^0 - c)."""

from __future__ import annotations

import numpy as np

from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.method import Setup
from server_app.methods.transfer import Server, Settings
from tests.quadratic import QuadraticKnowledge


def test_gradient_descent_on_the_regularizer():
    knowledge = QuadraticKnowledge(4)
    start = np.linspace(-1, 1, 5)
    setup = Setup(Tensors.pack({"theta": start.astype(np.float32)}), knowledge=knowledge)
    server = Server(Settings(rate=0.4, steps=2), setup)
    for round in range(1, 6):
        metrics = server.step(round, Replies(server))
    contraction = np.linalg.matrix_power(np.eye(5) - 0.4 * knowledge.R, 10)
    expected = knowledge.c + contraction @ (start - knowledge.c)
    np.testing.assert_allclose(server.model.vector, expected, atol=1e-5)
    assert metrics["step_norm"] > 0
    assert "transfer_distance" in metrics
