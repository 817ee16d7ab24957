import json
import math
from pathlib import Path

from server_app.report.charts import Band, Chart, Series, paired_chart
from server_app.report.scales import PERCENT, Unit
from server_app.report.sections import events
from server_app.runs.record import read_run
from tests.runs.synthetic import write_run

NAN = math.nan


def test_figures_are_in_units_and_none_where_they_are_not_finite() -> None:
    series = [Series("a", [0, 1, 2], [0.5, NAN, math.inf])]
    bands = [Band("b", [0, 1], [0.1, NAN], [0.2, NAN])]
    data = Chart("lines", "t", series, PERCENT, bands, limits=(0.0, 1.0)).data()
    assert data["series"][0]["y"] == [50, None, None]
    assert data["bands"][0] | {"name": "", "style": ""} == {
        "name": "", "style": "", "x": [0, 1], "low": [10, None], "high": [20, None],
    }  # fmt: skip
    assert data["limits"] == [0, 100]
    json.dumps(data, allow_nan=False)


def test_amounts_have_the_unit_of_their_axis() -> None:
    chart = Chart("lines", "t", [Series("a", [2e6], [0.5])], PERCENT, xunit=Unit("MB", 1e6))
    assert chart.data()["series"][0]["x"] == [2]
    assert chart.description == "a: from 50.0\u00a0% at 2\u00a0MB to 50.0\u00a0% at 2\u00a0MB."


def test_a_chart_without_values_says_so() -> None:
    chart = Chart("lines", "t", [Series("a", [0], [NAN])])
    assert chart.description == "No values."
    assert chart.data()["limits"] == [None, None]


def test_a_legend_names_two_lines_or_more_and_no_grey_one() -> None:
    line, grey = Series("a", [0], [1.0]), Series("g", [0], [1.0], "rest")
    assert Chart("lines", "t", [line, grey]).entries == []
    other = Series("b", [0], [1.0], "1")
    assert Chart("lines", "t", [line, other, grey]).entries == [("a", "0"), ("b", "1")]


def test_pairs_are_sorted_by_the_value_after() -> None:
    chart = paired_chart("t", ["x", "y", "z"], [0.2, 0.9, 0.1], [0.8, 0.6, NAN])
    data = chart.data()
    assert data["heads"] == ["z", "y", "x"]
    assert [line["y"] for line in data["series"]] == [[None, 60, 80], [10, 90, 20]]


def test_pairs_of_very_many_clients_are_thinned_and_say_so() -> None:
    values = [i / 500 for i in range(500)]
    chart = paired_chart("t", list(map(str, range(500))), values, values, ("base", "run"))
    assert chart.heads == [str(i) for i in range(0, 500, 3)]
    assert chart.note == "one client in 3"
    assert chart.description == "167 clients, sorted by run"


def test_what_happened_beside_training_is_marked(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=6)
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[2]["method"]["fell_back"] = 1.0
    lines[3] |= {"method": {}, "train": {}, "replies": 0}
    lines[5]["rejected"] = [{"node": "1", "reason": "not finite"}]
    lines[6]["rejected"] = [{"node": "1", "reason": "not finite", "step": "evaluation"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    meta = json.loads((folder / "run.json").read_text()) | {"resumed_after": [4]}
    (folder / "run.json").write_text(json.dumps(meta))
    assert [(event.round, event.kind) for event in events(read_run(folder))] == [
        (4, "resumed"), (2, "fell back"), (3, "no update"), (5, "replies rejected"),
    ]  # fmt: skip
