"""Local: plain SGD that goes on from round to round; nothing comes up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from client_app.methods import local
from common.models import FlatModel
from server_app.methods import local as half
from server_app.runs.record import read_run
from tests.personal import SGD, TASK, answers, device, run, server


def test_one_full_batch_step_a_round_is_gradient_descent():
    one, start = device(), server(half, {"sgd": {"lr": 0.1, "batch-size": 0, "epochs": 1}})
    network = TASK.build()
    images, labels = one.images
    for round in (1, 2, 3):
        up = local.train(start.broadcast(round, 0), one)
        loss = F.cross_entropy(network(images), labels)
        assert np.isclose(up.loss, loss.item(), rtol=1e-5)
        slopes = torch.autograd.grad(loss, [*network.parameters()])
        for parameter, slope in zip(network.parameters(), slopes, strict=True):
            parameter.data -= 0.1 * slope
    expected = answers(network, one)
    found = local.personal(start.broadcast(4, 0), one, one.client, 5)
    np.testing.assert_allclose(answers(found, one), expected, rtol=1e-4, atol=1e-6)


def test_clients_do_not_touch_each_other():
    settings = {"sgd": SGD}
    _, together = run(half, local.train, settings, range(1, 4))
    alone, one = server(half, settings), device(1, 13)
    for round in range(1, 4):
        local.train(alone.broadcast(round, 1), one)
    assert one.memory.read("local")[0]["own"].vector.tobytes() == (  # type: ignore[index]
        together[1].memory.read("local")[0]["own"].vector.tobytes()  # type: ignore[index]
    )


def test_a_new_client_trains_on_its_support_images():
    one, start = device(role="target"), server(half, {"sgd": SGD})
    down = start.broadcast(1, 0)
    before = answers(local.personal(down, one, one.clients[0], 0), one.clients[0])
    np.testing.assert_array_equal(before, answers(FlatModel(TASK.build()).module, one.clients[0]))
    after = local.personal(down, one, one.clients[0], 30)
    support = one.clients[0].support_images, one.clients[0].support_labels
    with torch.no_grad():
        assert F.cross_entropy(after.eval()(support[0]), support[1]) < 0.5


def test_a_round_that_changes_nothing_at_the_server_is_not_void(small_run: Callable[..., Path]):
    said: list[str] = []
    folder = small_run("local", notice=said.append)
    assert not any("void" in line for line in said)
    assert not any(record.void for record in read_run(folder).rounds)
