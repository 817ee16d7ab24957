import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_app.report.charts import Strip, line_chart, paired_chart, stacked_chart, strip_chart
from server_app.report.marks import Label, Series, spread_labels
from server_app.report.scales import PERCENT, PLAIN, POINTS

NAN = math.nan


def points(d: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+),([-\d.]+)", d)]


def test_a_line_runs_from_corner_to_corner() -> None:
    chart = line_chart("t", [Series("a", [0, 10], [0.0, 1.0])], PERCENT, height=200, limits=(0, 1))
    assert points(chart.paths[0].d) == [(0, 200), (100, 0)]
    assert next((t.at, t.label) for t in chart.yticks) == (200, "0")
    assert chart.yticks[-1].label == "100\u00a0%"
    assert chart.tips["heads"] == ["round 0", "round 10"]
    assert chart.tips["rows"][0]["values"] == ["0.0\u00a0%", "100.0\u00a0%"]


def test_a_line_breaks_at_nan_and_lone_values_are_dots() -> None:
    chart = line_chart("t", [Series("a", [0, 1, 2, 3, 4, 5], [1, NAN, 2, NAN, 3, 4])], PLAIN)
    assert chart.paths[0].d.count("M") == 3
    assert [dot.x for dot in chart.dots] == [0, 40, 100]
    assert "nan" not in chart.paths[0].d


def test_divergence_is_a_cross_at_the_last_value() -> None:
    chart = line_chart("t", [Series("a", [0, 1, 2, 3], [1, 2, NAN, NAN])], PLAIN)
    assert [(dot.kind, round(dot.x, 2)) for dot in chart.dots] == [("cross", 33.33)]
    assert chart.labels[0].value == "diverged"


def test_logarithmic_axis() -> None:
    chart = line_chart(
        "t", [Series("a", [0, 1, 2], [0.0, 1e-3, 10.0])], PLAIN, height=100, log=True
    )
    assert points(chart.paths[0].d) == [(50, 100), (100, 0)]
    assert chart.note == "logarithmic"


@pytest.mark.parametrize("values", [[], [NAN], [5.0], [0.0, 0.0]])
def test_little_or_no_data_draws(values: list[float]) -> None:
    xs = [float(i) for i in range(len(values))]
    chart = line_chart("t", [Series("a", xs, values)], PLAIN)
    assert all(math.isfinite(tick.at) for tick in chart.yticks + chart.xticks)
    assert "nan" not in "".join(path.d for path in chart.paths)


def test_runs_of_other_length_share_one_axis() -> None:
    series = [Series("a", [0, 10], [1, 2], "0"), Series("b", [0, 5], [1, 3], "1")]
    chart = line_chart("t", series, PLAIN)
    assert points(chart.paths[1].d)[-1][0] == 50
    assert chart.tips["rows"][1]["values"] == ["1", "3", ""]


@given(st.lists(st.floats(0, 190), min_size=1, max_size=8))
def test_labels_never_overlap_and_stay_in_the_chart(ys: list[float]) -> None:
    labels = [Label(y, "n", "v", "0") for y in ys]
    spread_labels(labels, 190)
    for above, below in itertools.pairwise(labels):
        assert below.y - above.y >= 15.99
    assert labels[0].y >= -0.01
    assert labels[-1].y <= 190


def test_stacked_bars_add_up() -> None:
    parts = [Series("a", [0, 1], [1.0, 2.0], "0"), Series("b", [0, 1], [3.0, NAN], "1")]
    chart = stacked_chart("t", [0, 1], parts, PLAIN, height=100)
    bars = [re.findall(r"M[\d.]+,([\d.]+)V([\d.]+)", path.d) for path in chart.paths]
    assert chart.yticks[-1].label == "4"
    assert bars == [[("100.0", "75.0"), ("100.0", "50.0")], [("75.0", "0.0")]]
    assert [row["values"] for row in chart.tips["rows"]] == [["1", "2"], ["3", ""]]


def test_pairs_are_sorted_and_losses_stand_out() -> None:
    chart = paired_chart("t", ["x", "y", "z"], [0.2, 0.9, 0.1], [0.8, 0.6, NAN], PERCENT)
    assert chart.tips["heads"] == ["z", "y", "x"]
    dots = [(dot.kind, dot.style) for dot in chart.dots]
    assert dots == [
        ("ring", "base"),
        ("ring", "base"),
        ("dot", "1"),
        ("ring", "base"),
        ("dot", "0"),
    ]
    assert {path.style for path in chart.paths} == {"0", "1"}


def test_strip_has_every_client_its_mean_and_error() -> None:
    values = {"1": 0.10, "2": 0.10, "3": -0.05, "4": NAN}
    chart = strip_chart("t", [Strip("run", "0", values, 0.05, 0.01)], POINTS)
    soft = [dot for dot in chart.dots if dot.kind == "soft"]
    assert [dot.title for dot in soft] == [
        "client 3: −5.0\u00a0points", "client 1: +10.0\u00a0points", "client 2: +10.0\u00a0points",
    ]  # fmt: skip
    assert soft[1].x == soft[2].x
    assert soft[1].y > soft[2].y
    assert chart.zero == pytest.approx(100 * 5 / 15)
    mean = next(dot for dot in chart.dots if dot.kind == "dot")
    assert mean.x == pytest.approx(100 * 10 / 15)
    ends = re.findall(r"[\d.]+", chart.paths[0].d)
    assert float(ends[2]) - float(ends[0]) == pytest.approx(2 * 1.96 * 0.01 / 0.15 * 100, abs=0.02)
