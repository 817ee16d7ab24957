"""Sections of the page that one run and a comparison of several have in common."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import stdev
from typing import Literal

from server_app.report import scores, words
from server_app.report.charts import BASE, REST, STYLES, Band, Chart, Event, Series
from server_app.runs.record import Evaluation, Round, Run

_SPREAD = 300  # a positive metric that spans more than this factor is drawn logarithmically
BAND = "A band is one standard deviation over seeds to either side of their mean."
_MOST_LABELLED = 3  # lines whose last values a small chart writes beside them
_RESIDUALS = ("primal_residual", "dual_residual")

Pick = Callable[[Round], dict[str, float]]


@dataclass(frozen=True)
class Column:
    """Heading of a table's column; numbers are aligned to the right."""

    name: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table; ``styles`` gives each row the swatch of its line, ``fold`` is what hides it."""

    columns: list[Column]
    rows: list[list[str]]
    styles: list[str] = field(default_factory=list)
    fold: str = ""
    bars: bool = False  # the swatches are those of bars


@dataclass(frozen=True)
class Section:
    """A heading, a few words, charts and tables; ``grid`` sets charts beside each other."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    grid: bool = False
    legend: list[tuple[str, str]] = field(default_factory=list)  # name, style; of all its charts


@dataclass(frozen=True)
class Line:
    """A run as a line of a chart."""

    run: Run
    name: str
    style: str


def lines_of(runs: Sequence[Run], names: Sequence[str], base: int | None) -> list[Line]:
    """Each run with its name and style; the run that is compared with has the quiet style.

    Of more than there are styles for, those that end highest have one; the others are grey.
    """
    others = [i for i in range(len(runs)) if i != base]
    if len(others) > STYLES:
        others = sorted(sorted(others, key=lambda i: -_reached(runs[i]))[:STYLES])
    styles = {i: str(number) for number, i in enumerate(others)}
    return [
        Line(run, name, BASE if i == base else styles.get(i, REST))
        for i, (run, name) in enumerate(zip(runs, names, strict=True))
    ]


def _reached(run: Run) -> float:
    final = scores.last(run)
    return final.after if final is not None and math.isfinite(final.after) else -1.0


def drawn(run: Run) -> list[Round]:
    """The rounds that charts draw: all, or every k-th and the last of a long run."""
    stride = math.ceil(len(run.rounds) / run.most_drawn)
    if stride <= 1:
        return list(run.rounds)
    return [r for i, r in enumerate(run.rounds) if i % stride == 0 or i == len(run.rounds) - 1]


def evaluated(run: Run) -> list[tuple[Round, Evaluation]]:
    """The evaluations that charts draw: all, or every k-th and the last of very many."""
    pairs = run.evaluated
    stride = math.ceil(len(pairs) / run.most_drawn)
    return [p for i, p in enumerate(pairs) if i % max(stride, 1) == 0 or i == len(pairs) - 1]


def evaluation_series(line: Line, pick: Callable[[Evaluation], float], name: str = "") -> Series:
    """One figure of every evaluation, over rounds."""
    pairs = evaluated(line.run)
    x, y = [float(r.round) for r, _ in pairs], [pick(e) for _, e in pairs]
    return Series(name or line.name, x, y, line.style)


def over_seeds(
    line: Line,
    series: Series,
    values: Callable[[Run], Mapping[int, float]],
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> list[Band]:
    """One standard deviation over seeds to either side of their mean; none of a single run.

    ``values`` gives a run's figure by round, ``limits`` are what the figure cannot exceed.
    """
    if not line.run.members or line.style == REST:
        return []
    of = [values(member) for member in line.run.members]
    low, high = [], []
    for x, mean in zip(series.x, series.y, strict=True):
        found = [each.get(int(x), math.nan) for each in of]
        spread = stdev(found) if all(map(math.isfinite, found)) else math.nan
        low.append(max(limits[0], mean - spread))
        high.append(min(limits[1], mean + spread))
    return [Band(f"{line.name}, ± 1 s", series.x, low, high, line.style)]


def losses(lines: Sequence[Line]) -> Section | None:
    """Training loss, loss on the evaluated clients, and the terms of knowledge transfer."""
    charts = metric_charts(lines, lambda r: r.train, {"loss": "Training loss"})
    charts += _evaluated_loss(lines)
    terms = [key for key in _keys(lines, lambda r: r.method) if key.startswith("transfer_")]
    charts += metric_charts(lines, lambda r: r.method, {key: words.metric(key) for key in terms})
    text = ["Mean over the clients of a round, as they reported it."]
    if terms:
        text.append("Transfer terms are what the private model teaches on the server's own images.")
    return grid("losses", "Losses", text, charts, lines)


def agreement(lines: Sequence[Line]) -> Section | None:
    """Primal and dual residual and the penalty rho of a method that works by consensus."""
    present = _keys(lines, lambda r: r.method)
    residuals = [key for key in _RESIDUALS if key in present]
    if len(lines) > 1:
        titles = {key: words.metric(key) for key in residuals}
        charts = metric_charts(lines, lambda r: r.method, titles, log=True)
    else:
        charts = _residuals(lines[0].run, residuals)
    rho = {key: words.metric(key) for key in present if key == "rho" or key.startswith("rho_")}
    charts += metric_charts(lines, lambda r: r.method, rho)
    text = [
        "The primal residual is how far the clients' models are from the shared one, the dual "
        "residual how far that one moved. Both fall where the fleet agrees."
    ]
    if rho:
        text.append("Rho is the weight that holds clients to the shared model.")
    return grid("agreement", "Agreement", text, charts, lines)


def other_metrics(lines: Sequence[Line]) -> Section | None:
    """Whatever else the method or the training recorded."""
    train = [key for key in _keys(lines, lambda r: r.train) if key != "loss"]
    method = [
        key
        for key in _keys(lines, lambda r: r.method)
        if key not in {*_RESIDUALS, "rho", "fell_back"}  # curves mark where it fell back
        and not key.startswith(("transfer_", "rho_"))
    ]
    charts = metric_charts(lines, lambda r: r.train, {key: words.metric(key) for key in train})
    charts += metric_charts(lines, lambda r: r.method, {key: words.metric(key) for key in method})
    return grid("metrics", "Other figures", ["As the method recorded them."], charts, lines)


def grid(
    key: str, title: str, text: list[str], charts: list[Chart], lines: Sequence[Line]
) -> Section | None:
    """A section of small charts, which share one legend; None without any chart."""
    if not charts:
        return None
    if any(chart.bands for chart in charts):
        text = [*text, BAND]
    drawn_names = {line.name for chart in charts for line in chart.series}
    legend = [(line.name, line.style) for line in lines if line.name in drawn_names]
    if len(lines) == 1:
        legend = []
    return Section(key, title, text, charts, grid=True, legend=legend)


def metric_charts(
    lines: Sequence[Line], pick: Pick, titles: Mapping[str, str], *, log: bool = False
) -> list[Chart]:
    """A small chart for each metric (key -> title) that has any value."""
    charts = []
    for key, title in titles.items():
        series, bands = [], []
        for line in lines:
            rounds = [r for r in drawn(line.run) if key in pick(r)]
            if rounds:
                x, y = [float(r.round) for r in rounds], [pick(r)[key] for r in rounds]
                series.append(Series(line.name if len(lines) > 1 else title, x, y, line.style))
                found = partial(_by_round, pick=pick, key=key)
                bands += over_seeds(line, series[-1], found)
        marked = events(lines[0].run) if key == "loss" and len(lines) == 1 else []
        charts += _small(title, series, log, bands, marked)
    return charts


def thinned(runs: Sequence[Run]) -> str:
    """A note where charts do not draw every round."""
    stride = max(math.ceil(len(run.rounds) / run.most_drawn) for run in runs)
    return f"Charts draw one round in {stride}; totals count all." if stride > 1 else ""


def _keys(lines: Sequence[Line], pick: Pick) -> list[str]:
    return list(dict.fromkeys(key for line in lines for key in scores.keys(line.run.rounds, pick)))


def _wide(series: Sequence[Series]) -> bool:
    values = [v for s in series for v in s.y if math.isfinite(v)]
    return bool(values) and min(values) > 0 and max(values) > _SPREAD * min(values)


def _evaluated_loss(lines: Sequence[Line]) -> list[Chart]:
    """One run: before and after adaptation. Several: only after it, where there is any."""
    title = "Loss on evaluated clients"
    if len(lines) == 1:
        run, style = lines[0].run, lines[0].style
        series = [
            evaluation_series(Line(run, "after", style), lambda e: e.loss_after),
            evaluation_series(Line(run, "before", BASE), lambda e: e.loss_before),
        ]
        bands = over_seeds(lines[0], series[0], _judged_losses)
        charts = _small(title, series, False, bands)
        for chart in charts:
            chart.legend = True
        return charts
    if words.adapts(lines[0].run):
        title += ", after"
    series = [evaluation_series(line, lambda e: e.loss_after) for line in lines]
    drawn_lines = zip(lines, series, strict=True)
    bands = [band for line, s in drawn_lines for band in over_seeds(line, s, _judged_losses)]
    return _small(title, series, False, bands)


def _judged_losses(run: Run) -> dict[int, float]:
    return {r.round: e.loss_after for r, e in run.evaluated}


def _by_round(run: Run, pick: Pick, key: str) -> dict[int, float]:
    return {r.round: pick(r)[key] for r in run.rounds if key in pick(r)}


def _residuals(run: Run, names: Sequence[str]) -> list[Chart]:
    rounds = drawn(run)
    series = [
        Series(
            key.partition("_")[0],
            [float(r.round) for r in rounds if key in r.method],
            [r.method[key] for r in rounds if key in r.method],
            style,
        )
        for key, style in zip(names, ("0", "1"), strict=False)
    ]
    if not any(v > 0 for s in series for v in s.y):
        return []
    return [
        Chart(
            "lines", "Residuals", series, log=True, ends="values", note="logarithmic",
            events=events(run),
        )
    ]  # fmt: skip


def _small(
    title: str,
    series: Sequence[Series],
    log: bool,
    bands: Sequence[Band] = (),
    marked: Sequence[Event] = (),
) -> list[Chart]:
    """A chart without names, logarithmic on demand or where values differ widely."""
    series = [s for s in series if any(map(math.isfinite, s.y))]
    if not series:
        return []
    log = (log and any(v > 0 for s in series for v in s.y)) or _wide(series)
    ends: Literal["values", "none"] = "none" if len(series) > _MOST_LABELLED else "values"
    note = "logarithmic" if log else ""
    return [
        Chart(
            "lines", title, series, bands=bands, log=log, ends=ends, legend=False, note=note,
            events=marked,
        )
    ]  # fmt: skip


def events(run: Run) -> list[Event]:
    """What curves mark beside their values: see docs/rounds.md, "How a run ends"."""
    found = [Event(number, "resumed") for number in run.meta.resumed_after]
    for record in run.rounds:
        kinds = {
            "fell back": record.fell_back,
            "no update": record.void,
            "replies rejected": record.refused > 0,
        }
        found += [Event(record.round, kind) for kind, there in kinds.items() if there]
    return found
