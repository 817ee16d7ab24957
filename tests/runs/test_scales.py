import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_app.report import scales
from server_app.report.scales import PERCENT, POINTS, Unit, byte_unit, significant, time_unit

number = st.floats(-1e9, 1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.1557, "0.156"), (0.0004, "0.0004"), (34.24, "34.2"), (1234, "1234"),
        (0.000012, "1.2·10⁻⁵"), (1e-5, "10⁻⁵"), (123456.0, "1.23·10⁵"), (-2.5, "−2.5"),
        (-3.2e-9, "−3.2·10⁻⁹"), (math.nan, "not a number"), (math.inf, "not a number"),
        (9.999, "10"), (99999.0, "10⁵"),
    ],
)  # fmt: skip
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (PERCENT, 0.978, "97.8 %"), (PERCENT, 1.0, "100.0 %"), (PERCENT, math.nan, "not a number"),
        (byte_unit([12_400_000.0]), 12_400_000, "12.4 MB"), (byte_unit([17.0]), 17, "17 B"),
        (byte_unit([2.5e9]), 2.5e9, "2.5 GB"), (byte_unit([]), 0, "0 B"),
        (time_unit([0.012]), 0.012, "12 ms"), (time_unit([7300.0]), 7200, "2 h"),
    ],
)  # fmt: skip
def test_units(unit: Unit, value: float, text: str) -> None:
    assert unit.text(value).replace("\u00a0", " ") == text


def test_signs() -> None:
    shown = [POINTS.signed(v).split("\u00a0")[0] for v in (0.1349, -0.02, 0.0, 1e-6, -1e-6)]
    assert shown == ["+13.5", "−2.0", "0.0", "0.0", "0.0"]


@given(number, number, st.integers(2, 8))
def test_linear_ticks_enclose_the_data_evenly(a: float, b: float, count: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = scales.linear_ticks(low, high, count)
    slack = 1e-6 * max(abs(low), abs(high), 1e-6)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= count + 1
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(steps) - min(steps) <= 1e-6 * max(abs(ticks[0]), abs(ticks[-1]))


def test_ticks_of_shares_stay_within_limits() -> None:
    assert scales.linear_ticks(97.2, 100, 5, (0, 100)) == [97, 98, 99, 100]
    assert scales.linear_ticks(100, 100, 5, (0, 100))[-1] == 100
    assert scales.linear_ticks(0, 0, 5, (0, 100))[0] == 0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 40, [0, 10, 20, 30, 40]), (0, 3, [0, 1, 2, 3]), (0, 12, [0, 5, 10]), (7, 7, [7]),
        (1, 300, [100, 200, 300]), (0, 1, [0, 1]),
    ],
)  # fmt: skip
def test_round_ticks_are_whole(low: int, high: int, ticks: list[float]) -> None:
    assert scales.round_ticks(low, high) == ticks


@given(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30))
def test_log_ticks_enclose_the_data(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = scales.log_ticks(low, high)
    assert ticks[0] <= low * (1 + 1e-6)
    assert ticks[-1] >= high * (1 - 1e-6)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))


def test_log_labels_are_of_one_kind() -> None:
    assert scales.log_labels([0.001, 0.01, 0.1, 1]) == ["0.001", "0.01", "0.1", "1"]
    assert scales.log_labels([1e-4, 1e-2, 1]) == ["10⁻⁴", "10⁻²", "10⁰"]
    assert scales.log_labels([2e-5, 5e-5]) == ["2·10⁻⁵", "5·10⁻⁵"]


def test_tick_labels_share_their_decimals_and_the_top_one_has_the_unit() -> None:
    assert PERCENT.ticks([0.95, 0.975, 1.0]) == ["95.0", "97.5", "100.0\u00a0%"]
    assert Unit().ticks([0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
