"""Client and server agree on the dual: eight numbers tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client_app.methods.augfl import train
from common.methods.augfl import Up
from common.sketch import NUMBERS, agree, sketch
from common.tensors import Tensors
from server_app.admm.duals import BELIEVED
from server_app.aggregation.replies import Replies
from server_app.method import Setup
from server_app.methods.augfl import Server, Settings
from server_app.validation.errors import Rejected
from tests.quadratic import QuadraticDevice, enrol, play, take


def make(n: int = 4) -> tuple[Server, list[QuadraticDevice]]:
    devices = [QuadraticDevice(seed) for seed in range(n)]
    start = np.random.default_rng(99).normal(size=5).astype(np.float32)
    settings = Settings.model_validate({"alpha": 0.3, "lambda": 0.0, "rho": 1.0})
    server = Server(settings, Setup(Tensors.pack({"theta": start})))
    enrol(server, devices)
    return server, devices


def reply(server: Server, devices: list[QuadraticDevice], round: int, node: int = 0) -> Up:
    return train(server.broadcast(round, node), devices[node])


def offer(server: Server, client: int, up: Up) -> dict[str, float]:
    """Look at a reply, and no more."""
    return Replies(server).offer(client, up).compared


def gradient_norm(server: Server, devices: list[QuadraticDevice]) -> float:
    """||G_0|| at the server's model."""
    matrix, vector = devices[0].affine(0.3)
    return float(np.linalg.norm(matrix @ server.model.vector - vector))


@pytest.mark.parametrize("size", [1, 7, 100, 5000, 200_000, 600_000])
def test_sketch_is_linear_and_tells_vectors_apart(size: int):
    dice = np.random.default_rng(size)
    x, y = (dice.normal(size=size).astype(np.float32) for _ in range(2))
    scale = float(np.linalg.norm(x) + np.linalg.norm(y))
    assert agree(sketch(x + y), sketch(x) + sketch(y), scale)
    assert not agree(sketch(x), sketch(y))
    assert not agree(sketch(x), sketch(np.float32(1.01) * x))
    assert not agree(sketch(x), np.zeros(NUMBERS))
    assert agree(sketch(0 * x), np.zeros(NUMBERS))
    assert not agree(sketch(x), sketch(x)[:-1])


def test_the_signs_are_the_same_on_every_machine():
    """Devices of other releases must compute the same; these numbers are part of the wire."""
    found = sketch(np.arange(1, 41, dtype=np.float32))
    np.testing.assert_array_equal(found, np.arange(5, 45, 5))
    longer = sketch((np.arange(40_000) % 97).astype(np.float32))
    np.testing.assert_array_equal(longer, [7700, 9020, 5393, 10302, 4832, 7898, 5435, 8598])


def test_sketches_of_the_server_are_those_of_the_devices_for_hundreds_of_rounds():
    server, devices = make()
    dice = np.random.default_rng(0)
    for round in range(1, 301):
        replies = Replies(server)
        for node in range(4):
            seen = replies.offer(node, reply(server, devices, round, node))
            if dice.random() > 0.3:
                replies.accept(seen)
        server.step(round, replies)
    for node in range(4):
        offer(server, node, reply(server, devices, 301, node))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"base": 1}, "base"),
        ({"base": 999}, "base"),
        ({"base": -1}, "base"),
        ({"dual": [1.0] * NUMBERS}, "dual"),
        ({"dual": []}, "dual"),
        ({"base": 0}, "dual"),  # a loss that is claimed, with an increment that is not from zero
    ],
)
def test_a_reply_that_contradicts_the_sum(change: dict[str, object], field: str):
    server, devices = make()
    play(server, train, devices, range(1, 6))
    up = reply(server, devices, 6)
    offer(server, 0, up)
    with pytest.raises(Rejected) as refusal:
        offer(server, 0, replace(up, **change))
    assert refusal.value.field == field


def test_an_old_increment_is_refused_on_the_new_dual():
    server, devices = make()
    play(server, train, devices, range(1, 4))
    old = reply(server, devices, 4)
    play(server, train, devices, range(4, 6))
    with pytest.raises(Rejected, match="dual"):
        offer(server, 0, replace(old, round=6, base=5))


def test_a_device_with_another_dual_says_that_it_has_lost_its_own():
    """A memory that was copied from another device knows the round, but not the dual."""
    server, devices = make()
    play(server, train, devices, range(1, 6))
    devices[2].memory.kept = devices[1].memory.kept
    up = reply(server, devices, 6, 2)
    assert up.base == 0
    replies = Replies(server)
    take(replies, 2, up)
    assert server.step(6, replies)["restarted_duals"] == 1


def test_a_client_is_believed_once_in_a_while():
    server, devices = make()
    play(server, train, devices, range(1, 5))
    restarts, refused = {}, []
    for round in range(5, 5 + 2 * BELIEVED):
        replies = Replies(server)
        for node in range(4):
            if node == 2:
                devices[node].memory.kept.clear()
            up = reply(server, devices, round, node)
            try:
                seen = replies.offer(node, up)
            except Rejected as refusal:
                refused.append((node, refusal.field))
            else:
                replies.accept(seen)
        restarts[round] = server.step(round, replies).get("restarted_duals", 0)
    assert [round for round, count in restarts.items() if count] == [5, 5 + BELIEVED]
    assert refused == [(2, "base")] * (2 * BELIEVED - 4)


def test_sizes_are_those_of_gradients():
    """New and settled clients have the same size, though their increments differ by far."""
    server, devices = make()
    play(server, train, devices, range(1, 200))
    settled, slope = reply(server, devices, 200), gradient_norm(server, devices)
    assert np.linalg.norm(settled.increment.vector) < 1e-2 * slope
    assert offer(server, 0, settled)["increment"] == pytest.approx(slope, rel=0.2)
    fresh, others = make()
    new, slope = reply(fresh, others, 1), gradient_norm(fresh, others)
    assert offer(fresh, 0, new)["increment"] == pytest.approx(slope, rel=0.2)
