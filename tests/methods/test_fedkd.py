"""FedKD: losses by hand, updates that are exact at full rank, and who gets which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.device import Device
from client_app.methods import fedkd
from common import low_rank
from common.errors import DataError
from common.models import features_and_logits
from common.wire import pack, size
from server_app.aggregation.replies import Replies
from server_app.methods.fedkd import Server, Settings
from tests.own_devices import TASK, device, setup
from tests.quadratic import take

EXACT = {"energy-start": 1.0, "energy-end": 1.0}


def server(**options: Any) -> Server:
    return Server(Settings.model_validate(options), setup())


def play(start: Server, devices: dict[int, Device], round: int) -> list[Any]:
    replies, downs = Replies(start), []
    for client, one in devices.items():
        downs.append(start.broadcast(round, client))
        take(replies, client, fedkd.train(downs[-1], one))
    start.step(round, replies)
    return downs


def test_one_step_by_autograd():
    one, start = device("cnn-small"), server(sgd={"lr": 0.1, "batch-size": 0}, **EXACT)
    down = start.broadcast(1, 0)
    shared, own = TASK.build(), fedkd._mentor(one, down.seed).module
    images, labels = one.images
    (f_m, z_m), (f_g, z_g) = (features_and_logits(m, images) for m in (own.network, shared))  # type: ignore[arg-type]
    ce_m, ce_g = F.cross_entropy(z_m, labels), F.cross_entropy(z_g, labels)
    p_m, p_g = z_m.softmax(1), z_g.softmax(1)

    def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p.detach() * (p.detach().log() - q.log())).sum(1).mean()

    both = (ce_m + ce_g).detach()
    weight = own.project.weight  # type: ignore[union-attr]
    goal_m = ce_m + (divergence(p_g, p_m) + ((f_m - f_g.detach() @ weight.T) ** 2).mean()) / both  # type: ignore[operator]
    away = ((f_m.detach() - f_g @ weight.detach().T) ** 2).mean()  # type: ignore[operator]
    goal_g = ce_g + (divergence(p_m, p_g) + away) / both
    mine = torch.autograd.grad(goal_m, [*own.parameters()], retain_graph=True)
    theirs = torch.autograd.grad(goal_g, [*shared.parameters()])
    up = fedkd.train(down, one)
    slope = torch.cat([g.flatten() for g in theirs]).numpy()
    np.testing.assert_allclose(
        low_rank.expand(up.change, start.model.specs).vector, -0.1 * slope, atol=1e-5
    )
    kept: Any = one.memory.read("fedkd")
    before = torch.cat([p.detach().flatten() for p in own.parameters()]).numpy()
    step = torch.cat([g.flatten() for g in mine]).numpy()
    np.testing.assert_allclose(kept[0]["own"].vector - before, -0.1 * step, atol=1e-5)
    assert (up.loss, up.own_loss) == (pytest.approx(ce_g.item()), pytest.approx(ce_m.item()))


def test_a_gradient_is_no_longer_than_clip():
    one, start = device(), server(clip=1e-3, sgd={"lr": 0.1, "batch-size": 0}, **EXACT)
    change = fedkd.train(start.broadcast(1, 0), one).change
    assert np.linalg.norm(change.vector) == pytest.approx(1e-4, rel=1e-4)


def test_at_full_rank_it_is_the_plain_mean():
    start, devices = server(**EXACT), {0: device(n=6), 1: device("resnet8x4", n=18, seed=1)}
    before = start.model.vector.copy()
    ups = [fedkd.train(start.broadcast(1, c), one) for c, one in devices.items()]
    replies = Replies(start)
    for client, up in enumerate(ups):
        take(replies, client, up)
    assert start.step(1, replies)["sent"] == 1.0
    mean = (ups[0].change.vector + ups[1].change.vector) / 2
    np.testing.assert_allclose(start.model.vector, before + mean, atol=1e-7)


def test_less_than_the_mentee_crosses_the_wire_both_ways():
    start, one = server(**{"energy-start": 0.8, "energy-end": 0.8}), device()
    dense = 4 * len(start.model)
    [first] = play(start, {0: one}, 1)
    assert size(pack(first)) == dense
    [second] = play(start, {0: one}, 2)
    assert second.model is None
    assert size(pack(second)) < dense
    assert size(pack(fedkd.train(start.broadcast(3, 0), one))) < dense


def test_updates_lead_to_the_servers_mentee():
    start, devices = server(), {0: device(), 1: device("resnet8x4", seed=1)}
    for round in range(1, 5):
        play(start, devices, round)
        for client, one in devices.items():
            down = start.broadcast(round + 1, client)
            assert down.model is None
            np.testing.assert_array_equal(fedkd._mentee(down, one).vector, start.model.vector)


def test_who_missed_a_step_or_lost_its_memory_gets_the_whole():
    start, here, away = server(), device(), device(seed=1)
    play(start, {0: here, 1: away}, 1)
    play(start, {0: here}, 2)
    assert start.broadcast(3, 1).model is start.model
    assert start.broadcast(3, 7).model is start.model
    down = start.broadcast(3, 0)
    assert down.model is None
    here.memory.kept.clear()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="has lost version 1 of the mentee"):
        fedkd.train(down, here)
    play(start, {1: away}, 3)
    assert start.broadcast(4, 0).model is start.model, "the next time it gets the whole"


def test_a_round_that_did_not_count_does_not_lead_astray():
    start, one = server(), device()
    play(start, {0: one}, 1)
    down = start.broadcast(2, 0)
    up = fedkd.train(down, one)  # its reply is lost, or too few others came
    again = start.broadcast(3, 0)
    assert again.model is None
    np.testing.assert_array_equal(fedkd._mentee(again, one).vector, start.model.vector)
    twice = fedkd.train(down, one)
    np.testing.assert_array_equal(twice.change.vector, up.change.vector)


def test_after_going_back_all_get_the_whole():
    start, one = server(), device()
    first = start.model
    play(start, {0: one}, 1)
    start.go_back(first, start.buffers, blamed=False)
    assert start.broadcast(2, 0).model is first
    play(start, {0: one}, 2)
    np.testing.assert_array_equal(
        fedkd._mentee(start.broadcast(3, 0), one).vector, start.model.vector
    )


def test_energy_rises_to_its_end():
    start = server(**{"energy-start": 0.9, "energy-end": 0.98, "rise": 4})
    assert [start.energy(t) for t in (0, 2, 4, 9)] == pytest.approx([0.9, 0.94, 0.98, 0.98])


def test_a_new_client_gets_a_mentor_that_learns_beside_the_mentee():
    start, one = server(), device("resnet8x4")
    one.role = "target"
    down = start.broadcast(1, -1)
    data = replace(one.clients[0], client=5)
    images = one.clients[0].support_images
    before, after = (fedkd.personal(down, one, data, steps).eval() for steps in (0, 3))
    assert not torch.equal(before(images), after(images))
