"""Runs are compared where they can be, and seeds of one setting are one line."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from server_app.report import scores, words
from server_app.report.comparison import results
from server_app.report.scales import NBSP
from server_app.report.sections import lines_of
from server_app.report.seeds import grouped
from server_app.report.write import write_report
from server_app.runs.record import read_run
from tests.runs.synthetic import write_run


def said(*folders: Path) -> tuple[str, list[str]]:
    runs = grouped([read_run(folder) for folder in folders])
    names, base = words.labels(runs), words.base_of(runs)
    rows = results(lines_of(runs, names, base), base).rows
    headline = words.comparison_headline(runs, names, base)
    return headline.replace(NBSP, " "), [row[2] for row in rows]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"settings": {"data.name": "mnist"}}, "data.name (digits, mnist)"),
        ({"settings": {"data.image-size": 28}}, "data.image-size (–, 28)"),
        ({"rounds": 20}, "rounds (40, 20)"),
        ({"settings": {"evaluation.steps": 5}}, "evaluation.steps (1, 5)"),
    ],
)
def test_what_keeps_runs_from_being_compared_comes_first(
    tmp_path: Path, other: dict[str, Any], what: str
) -> None:
    a = write_run(tmp_path / "a", private=False, final=0.7)
    b = write_run(tmp_path / "b", private=True, final=0.9, **other)
    headline, differences = said(a, b)
    assert headline.startswith(f"These runs differ in {what}, so that their accuracies do not")
    assert differences == ["reference", "–"]
    page = write_report([a, b], tmp_path / "page.html").read_text()
    assert 'id="by-client"' not in page
    assert "standard error of the difference" not in page


def seeds(folder: Path, count: int, **more: Any) -> list[Path]:
    return [
        write_run(
            folder / f"{more.get('method', 'augfl')}-{n}", seed=n, settings={"seed": n}, **more
        )
        for n in range(count)
    ]


def final(folder: Path) -> float:
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return float(line["evaluation"]["accuracy_after"])


def test_seeds_of_one_setting_are_one_line_with_a_band(tmp_path: Path) -> None:
    ours = seeds(tmp_path / "ours", 3)
    base = seeds(tmp_path / "base", 3, private=False, final=0.8)
    runs = grouped([read_run(folder) for folder in [*ours, *base]])
    assert [len(run.members) for run in runs] == [3, 3]
    each = [final(folder) for folder in ours]
    score = scores.last(runs[0])
    assert score is not None
    assert score.after == pytest.approx(mean(each))
    assert score.error == pytest.approx(stdev(each) / 3**0.5)
    gain = scores.difference(*runs)
    assert gain is not None
    pairs = [a - final(b) for a, b in zip(each, base, strict=True)]
    assert (gain.value, gain.paired) == (pytest.approx(mean(pairs)), True)
    assert gain.error == pytest.approx(stdev(pairs) / 3**0.5)
    page = write_report([*ours, *base], tmp_path / "page.html").read_text().replace(NBSP, " ")
    assert "with private model, 3 seeds" in page
    assert f"{100 * mean(each):.1f} % ± {100 * stdev(each):.1f}" in page
    accuracy = page.partition('<section id="accuracy"')[2].partition("</section>")[0]
    assert accuracy.count(r'3 seeds, \u00b1 1 s"') == 2
    assert "A band is one standard deviation over seeds" in page


def test_runs_that_differ_otherwise_or_failed_stay_apart(tmp_path: Path) -> None:
    folders = seeds(tmp_path, 2)
    folders.append(write_run(tmp_path / "c", settings={"seed": 5}, status="failed"))
    folders.append(write_run(tmp_path / "d", settings={"seed": 6, "augfl.rho": 2.0}))
    folders.append(write_run(tmp_path / "e", settings={"seed": 1}))  # a seed twice
    runs = grouped([read_run(folder) for folder in folders])
    assert [len(run.members) for run in runs] == [2, 0, 0, 0]


def test_a_report_of_one_setting_alone(tmp_path: Path) -> None:
    page = write_report(seeds(tmp_path, 4), tmp_path / "page.html").read_text()
    assert "augfl, 4 seeds ends highest" in page


@pytest.mark.parametrize("name", ["lr-0.1_seed-{}", "lr-0.1_seed-1{}", "lr-0.1-{}"])
def test_a_setting_is_named_without_its_seeds(tmp_path: Path, name: str) -> None:
    folders = [write_run(tmp_path / name.format(n), seed=n, settings={"seed": n}) for n in range(2)]
    assert [run.meta.run for run in grouped([read_run(folder) for folder in folders])] == ["lr-0.1"]


def test_more_runs_than_there_are_styles(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"r{i}", method=f"m{i}", private=False, final=0.5 + 0.03 * i)
        for i in range(12)
    ]
    page = write_report(folders, tmp_path / "page.html").read_text().replace(NBSP, " ")
    assert "4 runs that ended lower are grey; the table has all." in page
    assert page.count('"style": "rest"') >= 4
    assert "m11 ends highest" in page
    for i in range(12):
        assert f"</svg>m{i}</th>" in page.replace("\n", "")


def test_the_private_model_is_not_the_headline_where_a_third_run_is_ahead(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "a", private=False, final=0.55)
    helped = write_run(tmp_path / "b", private=True, final=0.82)
    other = write_run(tmp_path / "c", private=False, final=0.87, method="fedavg")
    assert said(plain, helped)[0].startswith("The private model adds")
    assert said(plain, helped, other)[0].startswith("fedavg ends highest")
    runs = [read_run(folder) for folder in (plain, helped, other)]
    names, base = words.labels(runs), words.base_of(runs)
    below = words.comparison_sentences(runs, names, base)
    assert below[0].startswith("The private model adds")
