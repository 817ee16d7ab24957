"""The same charts of the same run by ECharts, matplotlib and Plotly, as pictures side by side.

Writes a page for each library and its pictures (wide, in dark, and on a phone) into a folder, and
prints what each page weighs and how long Chromium takes to draw it. Plotly is no dependency:

    python -m pip install --target /tmp/plotly plotly==6.5.0
    PYTHONPATH=/tmp/plotly python -m benchmarks.chart_libraries --out /tmp/charts
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from benchmarks.machine import footer
from benchmarks.report_pages import TIME
from server_app.report import single
from server_app.report.charts import Chart
from server_app.report.templates import FOLDER, environment, library
from server_app.runs.record import read_run
from tests.monitoring.browser import Browser
from tests.runs.synthetic import write_run

COMMAND = "python -m benchmarks.chart_libraries"
VIEWS = {"wide": (900, False), "dark": (900, True), "phone": (390, False)}
_PAGE = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<style>{style} main {{ padding: 24px }}</style><main>{body}</main>{scripts}"""


def by_echarts(charts: Sequence[Chart]) -> str:
    """The report's own way."""
    draw = environment().get_template("chart.html.j2").module.draw  # type: ignore[attr-defined]
    script = (FOLDER / "charts.js").read_text(encoding="utf-8")
    body = Markup("").join(draw(chart) for chart in charts)
    return _page(
        body, f"<script>{library()}</script><script>{script}prepareCharts(document)</script>"
    )


def by_matplotlib(charts: Sequence[Chart]) -> str:
    """SVG that is drawn on the server."""
    from matplotlib import pyplot

    drawn = []
    for chart in charts:
        figure, axes = pyplot.subplots(figsize=(8.5, chart.height / 70))
        for number, series in enumerate(chart.data()["series"]):
            axes.plot(series["x"], series["y"], label=series["name"], color=f"C{number}")
        for band in chart.data()["bands"]:
            axes.fill_between(band["x"], band["low"], band["high"], alpha=0.15)
        axes.set(title=chart.title, xlabel="round", yscale="log" if chart.log else "linear")
        axes.legend()
        text = io.StringIO()
        figure.savefig(text, format="svg", bbox_inches="tight", transparent=True)
        pyplot.close(figure)
        svg = text.getvalue()
        drawn.append(svg[svg.index("<svg") :].replace("<svg", '<svg style="max-width:100%"', 1))
    return _page("".join(drawn), "")


def by_plotly(charts: Sequence[Chart]) -> str:
    """Plotly's script, whole."""
    from plotly import graph_objects as go  # type: ignore[import-not-found]
    from plotly.offline import get_plotlyjs  # type: ignore[import-not-found]

    drawn = []
    for chart in charts:
        figure = go.Figure()
        for band in chart.data()["bands"]:
            figure.add_scatter(x=band["x"], y=band["low"], line_width=0, showlegend=False)
            figure.add_scatter(x=band["x"], y=band["high"], line_width=0, fill="tonexty")
        for series in chart.data()["series"]:
            figure.add_scatter(x=series["x"], y=series["y"], name=series["name"])
        figure.update_layout(title=chart.title, height=max(chart.height, 300))
        figure.update_yaxes(type="log" if chart.log else "linear")
        drawn.append(figure.to_html(full_html=False, include_plotlyjs=False))
    return _page(f"<script>{get_plotlyjs()}</script>" + "".join(drawn), "")


LIBRARIES: dict[str, Callable[[Sequence[Chart]], str]] = {
    "ECharts": by_echarts, "matplotlib": by_matplotlib, "Plotly": by_plotly
}  # fmt: skip


def main() -> None:
    """Write pages and pictures, and print a line for each library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("charts"))
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run = write_run(Path(folder) / "run", rounds=options.rounds)
        sections = single.sections_of(read_run(run))
        charts = [
            chart for section in sections for chart in section.charts if chart.kind == "lines"
        ]
        print(f"{len(charts)} charts of lines, {options.rounds} rounds\n")
        print("| library | page, kB | until drawn, ms |\n| --- | --- | --- |")
        for name, draw in LIBRARIES.items():
            try:
                text = draw(charts)
            except ImportError as error:
                print(f"| {name} | {error} | |")
                continue
            page = options.out / f"{name}.html"
            page.write_text(text, encoding="utf-8")
            drawn = [_show(page, Path(folder) / f"{name}-{i}") for i in range(options.repeats)]
            print(f"| {name} | {len(text.encode()) / 1e3:,.0f} | {statistics.median(drawn):.0f} |")
    print(f"\n{footer(COMMAND)}")


def _page(body: str, scripts: str) -> str:
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    return _PAGE.format(style=style, body=body, scripts=scripts)


def _show(page: Path, profile: Path) -> float:
    with Browser(profile) as browser:
        browser.open(page.resolve().as_uri())
        passed = float(browser.value(TIME))
        for view, (width, dark) in VIEWS.items():
            browser.open(page.resolve().as_uri(), width=width, dark=dark)
            browser.screenshot(page.with_name(f"{page.stem}-{view}.png"))
    return passed


if __name__ == "__main__":
    main()
