"""The gate's memory: what is usual, who is set aside, and that a checkpoint keeps both."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from server_app.admission import OFFENCES, PAUSE, Gate
from server_app.rejection import Rejected
from server_app.usual import CAP, DEVIATIONS, SMALLEST, WARM_UP, Usual


def test_limit_is_the_median_and_eight_deviations_of_the_logarithms():
    sizes = np.exp([-2.0, -1.0, 0.0, 1.0, 2.0] * 8)
    # Median 0; the deviations are 2, 1, 0, 1, 2, so that their median is 1.
    assert Usual(sizes).limit == pytest.approx(min(CAP, math.exp(8 * 1.4826)))
    alike = Usual([3.0] * 50)
    assert alike.limit == pytest.approx(3 * math.exp(DEVIATIONS * SMALLEST))


def test_no_limit_but_the_cap_while_little_is_known():
    usual = Usual([1.0] * (WARM_UP - 1))
    assert usual.limit == CAP
    usual.extend([0.0])  # a client without anything to say has no say
    assert usual.limit == CAP
    usual.extend([1.0])
    assert usual.limit < CAP


def test_a_fifth_of_the_senders_cannot_climb():
    """With a fifth of liars the limit is exp(0.32 + 8 * 1.38), not exp(8), and stays there."""
    dice = np.random.default_rng(0)
    usual = Usual(np.exp(dice.normal(size=200)))
    for _ in range(200):  # each time as large as it is let
        usual.extend([*np.exp(dice.normal(size=8)), *[0.99 * usual.limit] * 2])
    assert math.exp(8) < usual.limit < math.exp(12.5)


def test_heavy_tails_pass():
    """Log-normal sizes over six orders of magnitude, some clients a thousand times the others."""
    dice = np.random.default_rng(1)
    gate = Gate()
    for round in range(1, 200):
        for node in range(20):
            size = float(np.exp(2 * dice.normal() - 0.02 * round))
            gate.admit(round, node, lambda size=size: (None, {"change": size}))
        gate.end_round()
    assert gate.rejections == {}


def bad(gate: Gate, round: int, node: int = 7) -> None:
    with pytest.raises(Rejected):
        gate.admit(round, node, lambda: (None, {"change": math.nan}))


def good(gate: Gate, round: int, node: int = 7) -> None:
    assert gate.admit(round, node, lambda: ("seen", {"change": 1.0})) == "seen"


def test_repeat_offenders_are_set_aside_and_return():
    gate = Gate()
    for round in range(1, OFFENCES):
        bad(gate, round)
        assert gate.set_aside(round + 1) == {}
    bad(gate, OFFENCES)
    back = OFFENCES + 1 + PAUSE
    assert gate.set_aside(OFFENCES + 1) == gate.set_aside(back - 1) == {7: back}
    assert gate.set_aside(back) == {}
    bad(gate, back)  # once is enough now
    assert gate.set_aside(back + 1) == {7: back + 1 + PAUSE}
    good(gate, back + 1 + PAUSE)
    bad(gate, back + 2 + PAUSE)
    assert gate.set_aside(back + 3 + PAUSE) == {}
    assert gate.rejections == {7: OFFENCES + 2}


def test_a_good_reply_ends_the_row():
    gate = Gate()
    for round in range(1, 20, 2):
        bad(gate, round)
        good(gate, round + 1)
    assert gate.set_aside(20) == {}
    assert gate.rejections == {7: 10}


def test_sizes_of_a_round_judge_the_next_and_refused_ones_never_do():
    gate = Gate()
    for node in range(WARM_UP):
        good(gate, 1, node)
    gate.admit(1, 50, lambda: (None, {"change": 1e5}))  # nothing is usual before the round is over
    gate.end_round()
    with pytest.raises(Rejected, match="change: size 1e\\+03"):
        gate.admit(2, 51, lambda: (None, {"change": 1e3}))
    good(gate, 2, 52)
    gate.end_round()
    assert 1e3 not in gate.state()["usual"]["change"]


def test_state_goes_through_json():
    gate, other = Gate(), Gate()
    for node in range(30):
        good(gate, 1, node)
    for round in range(1, 4):
        bad(gate, round)
    gate.end_round()
    other.load_state(json.loads(json.dumps(gate.state())))
    assert json.dumps(other.state()) == json.dumps(gate.state())
    assert other.set_aside(5) == gate.set_aside(5) != {}
    assert other.rejections == gate.rejections
    for one in (gate, other):
        with pytest.raises(Rejected):
            one.admit(4, 3, lambda: (None, {"change": 1e3}))


def test_reasons_are_one_line():
    refusal = Rejected("x" * 500, "a\nb\x1b[31m" + "c" * 999)
    assert len(refusal.field) == 80
    assert len(refusal.reason) == 300
    assert refusal.reason.startswith("a?b?[31mccc")
