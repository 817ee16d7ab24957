"""When rho is raised, when a step is cut, and when neither is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.methods.augfl import Up
from common.sketch import sketch
from common.tensors import Tensors
from server_app.admm.penalty import MARGIN, Penalty, usual_curvature
from server_app.admm.proximal import damping_of
from server_app.admm.safeguard import GROWTH, INNER, REACH, Safeguard
from server_app.aggregation.replies import Replies
from server_app.method import Setup, Source
from server_app.methods.augfl import Server, Settings
from server_app.saved import load, save
from tests.quadratic import take


def cut(safeguard: Safeguard, length: float, size: float) -> float:
    """Length of a step after it was looked at, over that before."""
    step = torch.tensor([length], dtype=torch.float64)
    was_cut = safeguard.cut(step, size)
    assert was_cut == (float(step) < length)
    return float(step) / length


def test_a_fixed_penalty_is_what_was_set():
    penalty, safeguard = Penalty(2.0, adaptive=False), Safeguard(active=False)
    assert penalty.total(1, 1e6, 1e6) == 2.0
    assert [cut(safeguard, step, 1e9) for step in (1.0, 1.0, 1.0, 1e6)] == [1.0] * 4


def test_raised_for_curvature_and_lowered_slowly_to_what_was_set():
    penalty = Penalty(2.0, adaptive=True)
    needed = MARGIN * (1.5 * 10 + 0.5 * 4)
    assert penalty.total(1, 10.0, 4.0) == pytest.approx(needed)
    assert penalty.used == pytest.approx(needed)
    after = [penalty.total(1, 0.1, 0.0) for _ in range(40)]
    assert after[0] == pytest.approx(0.9 * needed)
    assert after[-1] == 2.0


def test_what_was_set_is_for_each_client():
    penalty = Penalty(2.0, adaptive=True)
    assert penalty.total(5, 0.1, 0.0) == 10.0
    assert penalty.used == 2.0


def test_does_not_follow_curvature_that_stays_at_the_limit():
    """At the edge of stability P = 1.5 L; a margin over one would raise P for ever."""
    penalty, value = Penalty(3.0, adaptive=True), 3.0
    for _ in range(100):
        value = penalty.total(1, value / 1.5, 0.0)
    assert value == 3.0


def test_a_step_that_explodes_is_cut_and_the_margin_rises():
    penalty, safeguard = Penalty(0.0, adaptive=True), Safeguard(active=True)
    assert [cut(safeguard, step, 1e9) for step in (1.0, 1.2, 0.8)] == [1.0, 1.0, 1.0]
    assert cut(safeguard, 50.0, 1e9) == pytest.approx(GROWTH * 1.0 / 50.0)
    penalty.note(1, 1.0, cut=False)
    assert penalty.margin == MARGIN
    penalty.note(2, 3.0, cut=True)
    assert penalty.total(1, 2.0, 0.0) == pytest.approx(1.25 * MARGIN * 1.5 * 2.0)


def test_no_step_is_longer_than_half_of_the_model():
    """Also before there are others to compare it with."""
    safeguard = Safeguard(active=True)
    assert cut(safeguard, 60.0, 12.0) == pytest.approx(REACH * 12 / 60)
    assert cut(safeguard, 1.0, 12.0) == 1.0
    assert cut(Safeguard(active=True), 60.0, 0.0) == 1.0
    assert cut(Safeguard(active=False), 60.0, 12.0) == 1.0


def test_damping_makes_the_servers_own_steps_stable():
    damping = damping_of(2.0, 40.0)
    assert 2.0 + damping > (40.0 + 2.0) / 2
    assert damping_of(100.0, 1.0) == 0.0


def test_the_servers_own_steps_are_short_against_the_model():
    """However flat the mini-batch was on which their damping was found."""
    safeguard = Safeguard(active=True)
    assert safeguard.inner(60.0, 12.0) == pytest.approx(INNER * 12 / 60)
    assert safeguard.inner(INNER * 12.0, 12.0) == 1.0
    assert safeguard.inner(0.0, 12.0) == safeguard.inner(1.0, 0.0) == 1.0
    assert Safeguard(active=False).inner(60.0, 12.0) == 1.0


def test_a_return_doubles_the_rho_that_was_used():
    penalty = Penalty(1.0, adaptive=True)
    penalty.note(1, 1.0, cut=False)
    used = penalty.total(1, 100.0, 0.0)
    penalty.restart(double=True)
    assert penalty.total(1, 0.0, 0.0) == 2 * used
    assert (penalty.round, penalty.length) == (0, 0.0)
    penalty.restart(double=False)
    assert penalty.total(1, 0.0, 0.0) == 2 * used


def test_goes_on_from_its_state():
    one, two = Penalty(1.0, adaptive=True), Penalty(1.0, adaptive=True)
    careful, other = Safeguard(active=True), Safeguard(active=True)
    for round, length in enumerate(np.linspace(1, 20, 6), 1):
        one.total(1, length, length)
        one.note(round, length, careful.cut(torch.tensor([length**2], dtype=torch.float64), 1e9))
    load(two, save(one))
    load(other, save(careful))
    assert two.total(1, 0.1, 0.1) == one.total(1, 0.1, 0.1)
    assert two.secant(1.0, 9.0, 1.0, [6]) == one.secant(1.0, 9.0, 1.0, [6]) < 9.0
    assert cut(other, 1e6, 1e9) == cut(careful, 1e6, 1e9)


@pytest.mark.parametrize("made_up", [1e3, 1e6])
def test_one_made_up_curvature_does_not_decide_rho(made_up: float):
    honest = [8.0, 9.0, 10.0, 10.0, 11.0, 12.0, 9.5, 10.5, 10.0]
    assert usual_curvature([*honest, made_up]) < 12 * 10
    assert rho_of([*honest, made_up]) < 3 * rho_of([*honest, 10.0])


def test_an_honest_curvature_of_ten_times_the_others_counts_as_it_is():
    assert usual_curvature([1.0] * 9 + [10.0]) > 10
    assert usual_curvature([0.0, 0.0]) == 0


def rho_of(curvatures: list[float]) -> float:
    """rho of AugFL's first step, in which clients tell these curvatures."""
    start = Tensors.pack({"theta": np.ones(4, np.float32)})
    server = Server(Settings.model_validate({"lambda": 0.0, "rho": 1e-6}), Setup(start))
    for client in range(len(curvatures)):
        server.enrol(client, Source(10))
    replies = Replies(server)
    for client, curvature in enumerate(curvatures):
        increment = start.with_vector(np.full(4, 0.1, np.float32))
        echo = sketch(increment.vector).tolist()
        take(replies, client, Up(1, 10, 1.0, 0, increment, echo, curvature))
    server.step(1, replies)
    return server.penalty.used
