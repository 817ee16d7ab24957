"""When rho is raised, when a step is cut, and when neither is."""

from __future__ import annotations

import numpy as np
import pytest

from server_app.admm.penalty import GROWTH, MARGIN, REACH, STRIDE, Penalty
from server_app.saved import load, save


def test_a_fixed_penalty_is_what_was_set():
    penalty = Penalty(adaptive=False)
    assert penalty.total(2.0, 1e6, 1e6) == 2.0
    assert [penalty.shorten(step, 1e9) for step in (1.0, 1.0, 1.0, 1e6)] == [1.0] * 4


def test_raised_for_curvature_and_lowered_slowly_to_what_was_set():
    penalty = Penalty(adaptive=True)
    needed = MARGIN * (1.5 * 10 + 0.5 * 4)
    assert penalty.total(2.0, 10.0, 4.0) == pytest.approx(needed)
    after = [penalty.total(2.0, 0.1, 0.0) for _ in range(40)]
    assert after[0] == pytest.approx(0.9 * needed)
    assert after[-1] == 2.0


def test_does_not_follow_curvature_that_stays_at_the_limit():
    """At the edge of stability P = 1.5 L; a margin over one would raise P for ever."""
    penalty, value = Penalty(adaptive=True), 3.0
    for _ in range(100):
        value = penalty.total(3.0, value / 1.5, 0.0)
    assert value == 3.0


def test_a_step_that_explodes_is_cut_and_the_margin_rises():
    penalty = Penalty(adaptive=True)
    assert [penalty.shorten(step, 1e9) for step in (1.0, 1.2, 0.8)] == [1.0, 1.0, 1.0]
    assert penalty.shorten(50.0, 1e9) == pytest.approx(GROWTH * 1.0 / 50.0)
    assert penalty.total(0.0, 2.0, 0.0) == pytest.approx(1.25 * MARGIN * 1.5 * 2.0)


def test_no_step_is_longer_than_half_of_the_model():
    """Also before there are others to compare it with."""
    penalty = Penalty(adaptive=True)
    assert penalty.shorten(60.0, 12.0) == pytest.approx(REACH * 12 / 60)
    assert penalty.shorten(1.0, 12.0) == 1.0
    assert Penalty(adaptive=True).shorten(60.0, 0.0) == 1.0
    assert Penalty(adaptive=False).shorten(60.0, 12.0) == 1.0


def test_damping_makes_the_servers_own_steps_stable():
    penalty = Penalty(adaptive=True)
    damping = penalty.damping(2.0, 40.0)
    assert 2.0 + damping > (40.0 + 2.0) / 2
    assert penalty.damping(100.0, 1.0) == 0.0


def test_the_servers_own_steps_are_short_against_the_model():
    """However flat the mini-batch was on which their damping was found."""
    penalty = Penalty(adaptive=True)
    assert penalty.stride(60.0, 12.0) == pytest.approx(STRIDE * 12 / 60)
    assert penalty.stride(STRIDE * 12.0, 12.0) == 1.0
    assert penalty.stride(0.0, 12.0) == penalty.stride(1.0, 0.0) == 1.0
    assert Penalty(adaptive=False).stride(60.0, 12.0) == 1.0


def test_goes_on_from_its_state():
    one, two = Penalty(adaptive=True), Penalty(adaptive=True)
    for step in np.linspace(1, 20, 6):
        one.total(1.0, step, step)
        one.damping(1.0, step)
        one.shorten(step**2, 1e9)
    load(two, save(one))
    assert two.total(1.0, 0.1, 0.1) == one.total(1.0, 0.1, 0.1)
    assert two.damping(1.0, 0.1) == one.damping(1.0, 0.1)
    assert two.shorten(1e6, 1e9) == one.shorten(1e6, 1e9)
