"""FedRep: head first, then body, each with the other fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from client_app.methods import fedrep
from common.models import parts
from common.tensors import Tensors
from server_app.methods import fedrep as half
from tests.personal import TASK, device, fedavg, run, server

HEAD = parts.head_names(TASK.build())
STEP = {"sgd": {"lr": 0.1, "batch-size": 0, "epochs": 1}, "head-epochs": 3}


def own(one: Any) -> Tensors:
    return one.memory.read("fedrep")[0]["own"]  # type: ignore[no-any-return]


def test_without_a_head_it_is_fedavg_with_its_schedule():
    found, _ = run(half, fedrep.train, {"personal-layers": 0}, range(1, 4))
    np.testing.assert_array_equal(found.network.vector, fedavg(range(1, 4)).model.vector)


def test_three_steps_of_the_head_and_one_of_the_body_by_autograd():
    one = device()
    up = fedrep.train(server(half, STEP).broadcast(1, 0), one)
    network = TASK.build()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    images, labels = one.images
    head = [p for name, p in network.named_parameters() if name in HEAD]
    body = [p for name, p in network.named_parameters() if name not in HEAD]
    for moving in (head, head, head, body):
        loss = F.cross_entropy(network(images), labels)
        for parameter, slope in zip(moving, torch.autograd.grad(loss, moving), strict=True):
            parameter.data -= 0.1 * slope
    assert np.isclose(up.loss, loss.item(), rtol=1e-5), "that of the body's training"
    change, kept = up.change.unpack(), own(one).unpack()
    assert kept.keys() == HEAD
    for name, parameter in network.named_parameters():
        found = kept[name] if name in HEAD else before[name].numpy() + change[name]
        np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_only_the_moving_part_decays():
    """Weight decay must not touch what is fixed."""
    decayed = {"sgd": {"lr": 1e-6, "weight-decay": 1.0, "epochs": 1}, "head-epochs": 1}
    one, start = device(), server(half, decayed)
    fedrep.train(start.broadcast(1, 0), one)
    first = start.network.only(HEAD).vector
    np.testing.assert_allclose(own(one).vector, first, atol=1e-5)
    for name, parameter in one.model.module.named_parameters():
        assert parameter.requires_grad, name


def test_a_head_goes_on_from_round_to_round():
    _, devices = run(half, fedrep.train, STEP, [1])
    first = own(devices[0]).vector
    _, devices = run(half, fedrep.train, STEP, range(1, 3))
    again, _ = own(devices[0]).vector, devices[0].memory.read("fedrep", before=2)
    kept = devices[0].memory.read("fedrep", before=2)[0]["own"].vector  # type: ignore[index]
    np.testing.assert_array_equal(kept, first)
    assert not np.array_equal(again, first)
