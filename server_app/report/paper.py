"""What a paper needs of one run or several: tables as CSV and LaTeX, figures as SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.files import write_atomic
from server_app.report import comparison, single, words
from server_app.report.charts import REST, Chart
from server_app.report.sections import Line, lines_of
from server_app.report.seeds import SEEDS, grouped
from server_app.report.tables import clients_of, rounds_of
from server_app.report.templates import FOLDER
from server_app.runs.record import Run, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (5.0, 3.1)  # inches


def write_csv(folders: Sequence[Path], page: Path) -> list[Path]:
    """Rounds and clients of all runs, in two files beside the page.

    A column names the run, and one each its seeds; the others are as ``tables`` says.

    Raises
    ------
    RunError: a folder holds no readable run.
    """
    runs = [read_run(Path(folder)) for folder in folders]
    written = []
    for what, table in (("rounds", rounds_of), ("clients", clients_of)):
        frames = [_labelled(table(run).reset_index(drop=what == "clients"), run) for run in runs]
        path = _beside(page, f"{what}.csv")
        write_atomic(path, pd.concat(frames, ignore_index=True).to_csv(index=False))
        written.append(path)
    return written


def write_latex(folders: Sequence[Path], page: Path) -> list[Path]:
    """The table of results as LaTeX, for the package booktabs; runs of one setting are one row.

    Raises
    ------
    RunError: a folder holds no readable run.
    """
    lines, base = _lines(folders)
    table = comparison.results(lines, base)
    names = [column.name for column in table.columns]
    frame = pd.DataFrame(table.rows, columns=names).map(_plain)
    columns = "".join("r" if column.number else "l" for column in table.columns)
    text = frame.to_latex(index=False, escape=True, column_format=columns)
    path = _beside(page, "results.tex")
    write_atomic(path, text.replace("±", r"$\pm$").replace("−", "$-$").replace("–", "--"))
    return [path]


def write_figures(folders: Sequence[Path], page: Path) -> list[Path]:
    """Every line chart of the page as an SVG file; a band is the deviation over seeds.

    Raises
    ------
    RunError: a folder holds no readable run.
    """
    from matplotlib import rc_context

    lines, base = _lines(folders)
    if len(lines) == 1 and not lines[0].run.members:
        sections = single.sections_of(lines[0].run)
    else:
        sections = comparison.sections_of(lines, base)
    written = []
    for section in sections:
        for number, chart in enumerate((c for c in section.charts if c.kind == "lines"), start=1):
            path = _beside(page, f"{section.key}-{number}.svg")
            buffer = io.BytesIO()
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": "augflower"}):
                draw(chart).savefig(buffer, format="svg", metadata={"Date": None})
            write_atomic(path, buffer.getvalue())
            written.append(path)
    return written


def draw(chart: Chart) -> Figure:
    """A line chart on white paper, in the page's light colours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours, unit = _colours(), chart.unit
    with rc_context({"font.size": 9}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        xscale = chart.xunit.scale if chart.xunit else 1.0
        for band in chart.bands:
            low, high = np.array(band.low) / unit.scale, np.array(band.high) / unit.scale
            x = np.array(band.x) / xscale
            axes.fill_between(x, low, high, color=colours[band.style], alpha=0.15, linewidth=0)
        for line in chart.series:
            colour, dashes = colours[line.style], _dashes(line.style)
            x, y = np.array(line.x) / xscale, np.array(line.y) / unit.scale
            name = "_" if line.style == REST else line.name
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.4, label=name)
        if chart.log:
            axes.set_yscale("log", nonpositive="mask")
        if chart.zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(f"{chart.xname}, {chart.xunit.suffix}" if chart.xunit else chart.xname)
        axes.set_ylabel(f"{chart.title}, {unit.suffix}" if unit.suffix else chart.title)
        axes.spines[["top", "right"]].set_visible(False)
        if chart.entries:
            axes.legend(frameon=False)
    return figure


def _lines(folders: Sequence[Path]) -> tuple[list[Line], int]:
    runs = grouped([read_run(Path(folder)) for folder in folders])
    names, base = words.labels(runs), words.base_of(runs)
    return lines_of(runs, names, base), base


def _labelled(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    for place, name in enumerate(("run", *SEEDS)):
        value = run.meta.run if name == "run" else run.meta.settings.get(name)
        frame.insert(place, name, value)
    return frame


def _beside(page: Path, name: str) -> Path:
    return page.with_name(f"{page.stem}-{name}")


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def _colours() -> dict[str, str]:
    """The colours of the style sheet's light scheme."""
    light = (FOLDER / "report.css").read_text(encoding="utf-8").partition("@media")[0]
    found = dict(re.findall(r"--(s\d|base|line): (#\w{6})", light))
    return {name.removeprefix("s"): colour for name, colour in found.items()} | {
        REST: found["line"]
    }


def _dashes(style: str) -> str | tuple[int, tuple[int, ...]]:
    """The dashes of the style sheet, for lines that are not solid."""
    css = (FOLDER / "report.css").read_text(encoding="utf-8")
    match = re.search(rf"^\.s{style} .*--dash: ([\d ]+);", css, re.MULTILINE)
    return (0, tuple(map(int, match[1].split()))) if match else "solid"
