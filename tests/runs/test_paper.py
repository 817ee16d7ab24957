import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from statistics import stdev

import pandas as pd
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from server_app.report import paper
from server_app.report.charts import Band, Chart, Series
from server_app.report.sections import lines_of, losses
from server_app.report.seeds import grouped
from server_app.runs.record import read_run
from tests.runs.synthetic import write_run


def seeds(tmp_path: Path, count: int = 3) -> list[Path]:
    return [
        write_run(tmp_path / f"s{i}", seed=i, rounds=20, settings={"seed": i, "data.seed": i})
        for i in range(count)
    ]


def test_the_command_writes_all_of_it_beside_the_page(tmp_path: Path) -> None:
    page = tmp_path / "out" / "page.html"
    folders = [str(write_run(tmp_path / "a", rounds=10)), str(write_run(tmp_path / "b", rounds=10))]
    found = CliRunner().invoke(
        app, ["report", *folders, "--out", str(page), "--csv", "--svg", "--latex"]
    )
    assert found.exit_code == 0, found.output
    names = {path.name for path in page.parent.iterdir()}
    assert {"page.html", "page-rounds.csv", "page-clients.csv", "page-results.tex"} <= names
    assert {"page-accuracy-1.svg", "page-losses-1.svg", "page-losses-2.svg"} <= names
    for path in page.parent.glob("*.svg"):
        ElementTree.fromstring(path.read_bytes())


def test_the_figures_of_all_runs_are_in_one_table(tmp_path: Path) -> None:
    folders = seeds(tmp_path)
    rounds, clients = map(pd.read_csv, paper.write_csv(folders, tmp_path / "page.html"))
    assert list(rounds.columns[:4]) == ["run", "seed", "data.seed", "round"]
    assert len(rounds) == 3 * 21
    lines = [json.loads(line) for line in (folders[1] / "metrics.jsonl").read_text().splitlines()]
    row = rounds[(rounds["run"] == "s1") & (rounds["round"] == 20)].iloc[0]
    assert row["accuracy_after"] == lines[20]["evaluation"]["accuracy_after"]
    assert row["seed"] == 1
    assert set(clients["run"]) == {"s0", "s1", "s2"}


def test_results_are_a_table_of_latex(tmp_path: Path) -> None:
    ours = seeds(tmp_path)
    base = write_run(tmp_path / "without_it", private=False, final=0.9)
    (path,) = paper.write_latex([*ours, base], tmp_path / "page.html")
    text = path.read_text()
    assert text.startswith(r"\begin{tabular}{lrrrrrrrrl}")
    assert text.count(r"\\") == 3
    assert r"$\pm$" in text
    assert r"\%" in text
    assert "\u00a0" not in text


def test_a_figure_has_a_line_a_setting_and_its_band(tmp_path: Path) -> None:
    series = [Series("a_b", [0, 1], [1.0, 2.0]), Series("b", [0, 1], [2.0, 2.0], "base")]
    chart = Chart("lines", "Loss", series, bands=[Band("s", [0, 1], [0.5, 1.5], [1.5, 2.5])])
    (axes,) = paper.draw(chart).axes
    assert [line.get_label() for line in axes.lines] == ["a_b", "b"]
    assert [line.get_color() for line in axes.lines] == ["#145ec1", "#636a76"]
    assert len(axes.collections) == 1
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("round", "Loss")


def test_the_same_record_gives_the_same_figure(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=5)
    first = [path.read_bytes() for path in paper.write_figures([folder], tmp_path / "page.html")]
    assert first == [p.read_bytes() for p in paper.write_figures([folder], tmp_path / "page.html")]


def test_losses_have_a_band_over_seeds(tmp_path: Path) -> None:
    folders = [*seeds(tmp_path), write_run(tmp_path / "other", method="fedavg", private=False)]
    runs = grouped([read_run(folder) for folder in folders])
    section = losses(lines_of(runs, ["ours", "other"], 1))
    assert section is not None
    assert "A band is one standard deviation over seeds" in section.text[-1]
    chart = next(chart for chart in section.charts if chart.title == "Training loss")
    (band,) = chart.bands
    each = [read_run(folder).rounds[20].train["loss"] for folder in folders[:3]]
    assert band.high[-1] - band.low[-1] == pytest.approx(2 * stdev(each))
