"""FedPer: FedAvg where nothing is personal, and heads that never travel where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client_app.methods import fedper
from common.errors import SettingsError
from common.models import parts
from common.tensors import Tensors
from server_app.methods import fedper as half
from tests.personal import SGD, TASK, answers, device, fedavg, run, server

HEAD = parts.head_names(TASK.build())


def test_without_personal_layers_it_is_fedavg():
    found, _ = run(half, fedper.train, {"personal-layers": 0}, range(1, 4))
    expected = fedavg(range(1, 4))
    np.testing.assert_array_equal(found.network.vector, expected.model.vector)


def test_with_all_layers_personal_clients_train_alone():
    found, devices = run(half, fedper.train, {"personal-layers": 99}, range(1, 3))
    assert found.network.vector.tobytes() == server(half, {}).network.vector.tobytes()
    alone = server(half, {"personal-layers": 99, "sgd": SGD})
    one = device(2, 14)
    for round in (1, 2):
        fedper.train(alone.broadcast(round, 2), one)
    assert own(one).vector.tobytes() == own(devices[2]).vector.tobytes()


def own(one: object) -> Tensors:
    return one.memory.read("fedper")[0]["own"]  # type: ignore[attr-defined, no-any-return]


def test_one_round_by_hand():
    """Each client trains body and head together; bodies are averaged, heads stay."""
    found, devices = run(half, fedper.train, {}, [1])
    start = server(half, {"sgd": SGD})
    # The same training, all of which is seen.
    whole = server(half, {"sgd": SGD, "personal-layers": 0})
    ups = [fedper.train(whole.broadcast(1, i), device(i, 12 + i)) for i in range(3)]
    mean = sum(up.examples * up.change.vector for up in ups) / sum(up.examples for up in ups)
    expected = start.network.with_vector(start.network.vector + mean).without(HEAD)
    np.testing.assert_allclose(found.network.without(HEAD).vector, expected.vector, atol=1e-7)
    for up, one in zip(ups, devices, strict=True):
        head = start.network.with_vector(start.network.vector + up.change.vector).only(HEAD)
        np.testing.assert_allclose(own(one).vector, head.vector, atol=1e-7)
    assert found.network.only(HEAD).vector.tobytes() == start.network.only(HEAD).vector.tobytes()


def test_the_head_never_travels():
    one = device()
    up = fedper.train(server(half, {}).broadcast(1, 0), one)
    assert {spec[0] for spec in up.change.specs} == parts.body_names(TASK.build())
    assert {spec[0] for spec in own(one).specs} == HEAD


def test_the_personal_model_is_the_new_body_with_the_clients_head():
    found, devices = run(half, fedper.train, {}, range(1, 4))
    down, module = found.broadcast(4, 1), TASK.build()
    parameters = down.model.merged(own(devices[1])).unpack()
    for name, parameter in module.named_parameters():
        parameter.data.copy_(torch.from_numpy(parameters[name]))
    expected = answers(module, devices[1])
    got = fedper.personal(down, devices[1], devices[1].client, 3)
    np.testing.assert_allclose(answers(got, devices[1]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 40])
def test_a_new_client_learns_a_head_on_the_body(steps: int):
    found, _ = run(half, fedper.train, {}, range(1, 4))
    stranger = device(9, role="target")
    module = fedper.personal(found.broadcast(4, 9), stranger, stranger.clients[0], steps)
    values = Tensors.pack({n: p.detach().numpy() for n, p in module.named_parameters()})
    np.testing.assert_array_equal(values.without(HEAD).vector, found.network.without(HEAD).vector)
    moved = not np.array_equal(values.only(HEAD).vector, found.network.only(HEAD).vector)
    assert moved == bool(steps)


def test_another_own_architecture_is_refused():
    one = device()
    one.own_model = "resnet8x4"
    with pytest.raises(SettingsError, match="leave own-model and own-models out"):
        fedper.prepare(one)
