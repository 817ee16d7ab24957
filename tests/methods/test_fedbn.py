"""FedBN: FedAvg but for normalisation layers, which stay with their statistics."""

from __future__ import annotations

import numpy as np

from client_app.methods import fedbn
from common.models import parts
from common.task import Task
from server_app.methods import fedbn as half
from tests.personal import SGD, answers, fedavg, run, server

NORM = "resnet8x4"
SCALES = parts.norm_names(Task(NORM, 3, 1, 8).build())
ONCE = {"sgd": SGD | {"epochs": 1}}


def test_without_normalisation_layers_it_is_fedavg():
    found, _ = run(half, fedbn.train, {}, range(1, 4))
    np.testing.assert_array_equal(found.network.vector, fedavg(range(1, 4)).model.vector)


def test_one_round_is_that_of_fedavg_but_for_normalisation_layers():
    found, _ = run(half, fedbn.train, ONCE, [1], NORM)
    expected = fedavg([1], ONCE["sgd"], NORM).model
    np.testing.assert_array_equal(
        found.network.without(SCALES).vector, expected.without(SCALES).vector
    )
    start = server(half, ONCE, NORM)
    assert found.network.only(SCALES).vector.tobytes() == (
        start.network.only(SCALES).vector.tobytes()
    )
    assert not np.array_equal(expected.only(SCALES).vector, found.network.only(SCALES).vector)


def test_scales_and_statistics_stay_and_are_used():
    found, devices = run(half, fedbn.train, ONCE, range(1, 3), NORM)
    up = fedbn.train(found.broadcast(3, 0), devices[0])
    assert {spec[0] for spec in up.change.specs} == {
        spec[0] for spec in found.network.specs
    } - SCALES
    assert up.buffers.specs == ()
    groups, _ = devices[0].memory.read("fedbn")  # type: ignore[misc]
    assert {spec[0] for spec in groups["own"].specs} == SCALES
    assert groups["buffers"].specs == found.buffers.specs
    down = found.broadcast(4, 0)
    mine, theirs = (
        answers(fedbn.personal(down, one, devices[0].client, 0), devices[0])
        for one in (devices[0], devices[1])
    )
    assert not np.allclose(mine, theirs)
