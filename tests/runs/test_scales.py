import math

import pytest

from server_app.report.scales import PERCENT, POINTS, Unit, byte_unit, significant, time_unit


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
