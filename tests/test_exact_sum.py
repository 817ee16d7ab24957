"""Exact sums: the right value, and the same bits in any order."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_app.aggregation.exact_sum import FINEST, ExactSum

Arrays = list[tuple[np.ndarray, float]]


@pytest.fixture(params=[5, 1000, 40_000])
def arrays(request: pytest.FixtureRequest) -> Arrays:
    dice = np.random.default_rng(0)
    scale = 10.0 ** dice.integers(-8, 9, size=(30, 1))
    values = (scale * dice.normal(size=(30, request.param))).astype(np.float32)
    return [
        (row, float(factor)) for row, factor in zip(values, dice.uniform(0, 900, 30), strict=True)
    ]


def summed(arrays: Arrays) -> np.ndarray:
    total = ExactSum(arrays[0][0].shape)
    for values, factor in arrays:
        total.add(values, factor)
    return total.total


def test_the_order_does_not_matter(arrays: Arrays):
    first = summed(arrays).tobytes()
    dice = np.random.default_rng(1)
    for _ in range(5):
        mixed = [arrays[i] for i in dice.permutation(len(arrays))]
        assert summed(mixed).tobytes() == first
    plain = [sum((f * a.astype(np.float64) for a, f in chosen), np.zeros(len(arrays[0][0])))
             for chosen in (arrays, arrays[::-1])]  # fmt: skip
    if len(arrays[0][0]) > 5:
        assert plain[0].tobytes() != plain[1].tobytes(), "plain sums would do as well"


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40), st.randoms())
def test_it_is_the_sum(numbers: list[float], dice: object):
    got = float(summed([(np.array([n], np.float32), 1.0) for n in numbers])[0])
    exact = sum(map(Fraction, numbers))
    step = Fraction(2) ** FINEST
    # Half a step is lost of each number, and the last rounding of the result.
    error = len(numbers) * step + abs(exact) * Fraction(2) ** -51
    assert abs(Fraction(got) - exact) <= error


def test_huge_and_small_numbers_add_up():
    total = ExactSum((2,))
    for value in (1e38, 1.0, -1e38, 2.0**FINEST):
        total.add(np.array([value, value], np.float32))
    np.testing.assert_array_equal(total.total, [1.0 + 2.0**FINEST] * 2)


def test_entries_of_an_index_alone_are_added():
    total = ExactSum((2, 3))
    total.add(np.array([[1.0, 2.0]]), 3.0, np.ix_([1], [0, 2]))
    total.add(1.5, at=np.ix_([0, 1], [2]))
    np.testing.assert_array_equal(total.total, [[0, 0, 1.5], [3, 0, 7.5]])


def test_scalars_and_nothing():
    total = ExactSum(())
    assert float(total.total) == 0.0
    for number in (0.1, 0.2, 0.3):
        total.add(number)
    assert float(total.total) == pytest.approx(math.fsum((0.1, 0.2, 0.3)), abs=2e-15)
    empty = ExactSum((0,))
    empty.add(np.zeros(0, np.float32), 2.0)
    assert empty.total.shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float):
    total = ExactSum((2,))
    with pytest.raises(ValueError, match="not finite"):
        total.add(np.array([1.0, bad], np.float32))
    np.testing.assert_array_equal(total.total, [0, 0])
