"""The gate's memory: what is bound, who is set aside, and that a checkpoint keeps both."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from server_app.validation.errors import Rejected
from server_app.validation.gate import OFFENCES, PAUSE, Candidate, Gate, check_fields
from server_app.validation.outliers import (
    CAP,
    DEVIATIONS,
    DOUBTFUL,
    FEW,
    LEAST,
    ROUNDS,
    SHARE,
    SMALLEST,
    UNSURE,
    WARM_UP,
    OutlierBound,
)


def test_limit_is_the_median_and_eight_deviations_of_the_logarithms():
    sizes = np.exp([-2.0, -1.0, 0.0, 1.0, 2.0] * 8)
    # Median 0; the deviations are 2, 1, 0, 1, 2, so that their median is 1.
    assert OutlierBound().limit(DEVIATIONS, sizes) == pytest.approx(min(CAP, math.exp(8 * 1.4826)))
    assert OutlierBound().limit(DEVIATIONS, [3.0] * 50) == pytest.approx(
        3 * math.exp(DEVIATIONS * SMALLEST)
    )


def test_no_limit_but_the_cap_for_two():
    bound = OutlierBound([[1.0] * (LEAST - 1)])
    assert bound.limit(DEVIATIONS) == CAP
    bound.extend([0.0])  # a client without anything to say has no say
    assert bound.limit(DEVIATIONS) == CAP
    bound.extend([1.0])
    assert bound.limit(DEVIATIONS) < CAP


def test_zeros_have_no_say_wherever_they_come_from():
    ones = OutlierBound([[1.0] * 20]).limit(DEVIATIONS)
    assert OutlierBound([[0.0, *[1.0] * 20, 0.0]]).limit(DEVIATIONS) == ones
    assert OutlierBound([[1.0] * 20, [0.0] * 30]).limit(DEVIATIONS) == ones


def test_a_few_that_lie_close_together_bound_with_more_room():
    cases = ((WARM_UP - 1, FEW, UNSURE), (WARM_UP, FEW - 1, UNSURE), (WARM_UP, FEW, SMALLEST))
    for count, now, sigma in cases:
        limit = OutlierBound([[1.0] * (count - now)]).limit(DEVIATIONS, [1.0] * now)
        assert limit == pytest.approx(math.exp(DEVIATIONS * sigma))


def test_a_round_of_thousands_is_kept_from_its_smallest_to_its_largest():
    """The sizes of a round come in the order of its clients; kept are not those of the last."""
    bound = OutlierBound()
    for _ in range(ROUNDS + 1):
        bound.extend([*[1.0] * 1500, *[100.0] * 500])
    kept = bound.state()
    assert len(kept) == ROUNDS
    assert all(sizes.count(100.0) == pytest.approx(SHARE / 4, abs=1) for sizes in kept)
    assert bound.limit(DEVIATIONS) == pytest.approx(math.exp(DEVIATIONS * SMALLEST))


def test_numbers_that_rise_and_fall_together_are_bounded_by_their_own_round():
    """A run's sizes change by more, from round to round, than those of one round differ."""
    dice = np.random.default_rng(2)
    bound = OutlierBound()
    for round in range(60):
        level = math.exp(3 * math.sin(round))  # by factors of up to 400
        sizes = level * np.exp(0.2 * dice.normal(size=10))
        limit = bound.limit(DEVIATIONS, sizes)
        assert max(sizes) < limit, "an honest round that is larger than those before it"
        if round > 3:
            assert limit < 60 * level, "a lie that would have been usual some rounds ago"
        bound.extend(sizes)


def test_rounds_of_two_are_bounded_by_all_recent_ones():
    bound = OutlierBound()
    for _ in range(15):
        bound.extend([1.0, 2.0])
    assert bound.limit(DEVIATIONS, [1.0, 1000.0]) < 100


def test_a_fifth_of_the_senders_cannot_climb():
    """With a fifth of liars the limit is exp(0.32 + 8 * 1.38), not exp(8), and stays there."""
    dice = np.random.default_rng(0)
    bound, limits = OutlierBound(), [math.exp(8)]
    for _ in range(200):  # each time as large as it is let
        honest = np.exp(dice.normal(size=40))
        limits.append(bound.limit(DEVIATIONS, [*honest, *[limits[-1]] * 10]))
        bound.extend([*honest, *[0.99 * limits[-1]] * 10])
    assert math.exp(8) < np.mean(limits[100:]) < math.exp(12.5)


def test_heavy_tails_pass():
    """Log-normal sizes over six orders of magnitude, some clients a thousand times the others."""
    dice = np.random.default_rng(1)
    gate = Gate()
    for round in range(1, 200):
        together(gate, round, [float(np.exp(2 * n - 0.02 * round)) for n in dice.normal(size=20)])
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


def together(gate: Gate, round: int, sizes: list[float]) -> list[int]:
    """Nodes of a round whose replies are admitted after they were compared with each other."""
    held = [
        gate.look(round, node, lambda size=size: (None, {"change": size}))
        for node, size in enumerate(sizes)
    ]
    gate.compare(held)
    admitted = []
    for candidate in held:
        with suppress(Rejected):
            gate.decide(round, candidate)
            admitted.append(candidate.node)
    return admitted


@pytest.mark.parametrize("liar", range(4))
@pytest.mark.parametrize("size", [1e3, 9e5])
def test_the_first_replies_bound_each_other(liar: int, size: float):
    """Wherever the liar stands in the order, and whoever tells it how much it may send."""
    sizes = [0.4, 0.5, 0.7, 0.3]
    sizes[liar] = size
    gate = Gate()
    assert together(gate, 1, sizes) == [node for node in range(4) if node != liar]
    assert gate.rejections == {liar: 1}


def test_of_two_neither_is_an_outlier():
    assert together(Gate(), 1, [0.5, 9e5]) == [0, 1]


def test_replies_are_held_back_until_enough_are_known():
    gate = Gate()
    together(gate, 1, [1.0] * (WARM_UP - 5))
    assert not gate.plain(Candidate(7, None, {"change": 1.0}))
    together(gate, 1, [1.0] * 5)
    assert gate.plain(Candidate(7, None, {"change": 1.0}))


def test_later_only_what_is_larger_than_usual_is_held_back_and_bounded_by_its_round():
    gate = Gate()
    together(gate, 1, [1.0] * WARM_UP)
    gate.end_round()
    large = [Candidate(node, None, {"change": 80.0 + node}) for node in range(4)]
    assert gate.plain(Candidate(9, None, {"change": 1.5}))
    assert not any(map(gate.plain, large))
    assert together(gate, 2, [80.0, 81.0, 82.0, 83.0]) == [0, 1, 2, 3], "all have risen"
    gate.end_round()
    assert together(gate, 3, [1.0, 1.1, 200.0, 1.2]) == [0, 1, 3], "one has"


def test_refused_sizes_never_bound():
    gate = Gate()
    for node in range(WARM_UP):
        good(gate, 1, node)
    with pytest.raises(Rejected, match="change: size 1e\\+05"):
        gate.admit(1, 50, lambda: (None, {"change": 1e5}))
    gate.end_round()
    with pytest.raises(Rejected, match="change: size 1e\\+03"):
        gate.admit(2, 51, lambda: (None, {"change": 1e3}))
    good(gate, 2, 52)
    gate.end_round()
    assert gate.state()["bounds"]["change"] == [[1.0] * WARM_UP, [1.0]]


def test_who_was_unusual_is_blamed_if_the_model_is_lost_before_a_better_one_is_found():
    gate = Gate()
    together(gate, 1, [1.0] * WARM_UP)
    gate.end_round()
    doubtful = math.exp(0.5 * (DOUBTFUL + DEVIATIONS) * SMALLEST)
    for round, trusted in ((2, True), (3, False)):
        assert together(gate, round, [1.0, doubtful, 1.1]) == [0, 1, 2]
        gate.end_round()
        if trusted:
            gate.trust()
    assert gate.blame(4) == [1]
    assert gate.set_aside(5) == {1: 5 + PAUSE}
    assert gate.blame(5) == []


@pytest.mark.parametrize(("moving", "blamed"), [(None, [7]), (["change"], []), (["bend"], [7])])
def test_only_what_moves_the_model_makes_a_node_doubtful(
    moving: list[str] | None, blamed: list[int]
):
    gate = Gate()
    for size in (*[1.0] * WARM_UP, 10.0):
        candidate = gate.look(1, 7, lambda size=size: (None, {"bend": size}))
        gate.compare([candidate])
        gate.decide(1, candidate, moving)
    gate.end_round()
    assert gate.blame(2) == blamed


def test_a_rejection_knows_whether_it_was_for_too_much():
    gate = Gate()
    with pytest.raises(Rejected) as refusal:
        gate.admit(1, 7, lambda: (None, {"bend": math.inf}))
    assert refusal.value.excessive
    for node in range(WARM_UP):
        gate.admit(1, node, lambda: (None, {"bend": 1.0}))
    with pytest.raises(Rejected) as refusal:
        gate.admit(1, 7, lambda: (None, {"bend": 1e5}))
    assert refusal.value.excessive
    with pytest.raises(Rejected) as refusal:
        check_fields(SimpleNamespace(round=2, examples=1), 1, 1, {})
    assert not refusal.value.excessive


def test_an_offence_that_was_none_is_forgiven():
    gate = Gate()
    for round in range(1, OFFENCES + 1):
        bad(gate, round)
    assert gate.set_aside(OFFENCES + 1)
    gate.forgive(OFFENCES, [7])
    assert gate.set_aside(OFFENCES + 1) == {}
    bad(gate, OFFENCES + 1)
    assert gate.set_aside(OFFENCES + 2)


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
