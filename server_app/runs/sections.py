"""Sections of the page that one run and a comparison of several have in common."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from server_app.runs import scores, words
from server_app.runs.charts import line_chart, stacked_chart
from server_app.runs.marks import BASE, STYLES, Chart, Series
from server_app.runs.record import Evaluation, Round, Run
from server_app.runs.scales import PLAIN, byte_unit, time_unit

MOST_DRAWN = 600  # rounds that a chart draws; of longer runs every k-th
_SPREAD = 300  # a positive metric that spans more than this factor is drawn logarithmically
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


@dataclass(frozen=True)
class Section:
    """A heading, a few words, charts and tables; ``grid`` sets charts beside each other."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    grid: bool = False


@dataclass(frozen=True)
class Line:
    """A run as a line of a chart."""

    run: Run
    name: str
    style: str


def lines_of(runs: Sequence[Run], names: Sequence[str], base: int | None) -> list[Line]:
    """Each run with its name and style; the run that is compared with has the quiet style."""
    numbers = iter(range(STYLES))
    return [
        Line(run, name, BASE if i == base else str(next(numbers)))
        for i, (run, name) in enumerate(zip(runs, names, strict=True))
    ]


def drawn(run: Run) -> list[Round]:
    """The rounds that charts draw: all, or every k-th and the last of a long run."""
    stride = math.ceil(len(run.rounds) / MOST_DRAWN)
    if stride <= 1:
        return list(run.rounds)
    return [r for i, r in enumerate(run.rounds) if i % stride == 0 or i == len(run.rounds) - 1]


def judged(run: Run) -> list[tuple[Round, Evaluation]]:
    """The evaluations that charts draw: all, or every k-th and the last of very many."""
    pairs = run.evaluated
    stride = math.ceil(len(pairs) / MOST_DRAWN)
    return [p for i, p in enumerate(pairs) if i % max(stride, 1) == 0 or i == len(pairs) - 1]


def evaluation_series(line: Line, pick: Callable[[Evaluation], float], name: str = "") -> Series:
    """One figure of every evaluation, over rounds."""
    pairs = judged(line.run)
    x, y = [float(r.round) for r, _ in pairs], [pick(e) for _, e in pairs]
    return Series(name or line.name, x, y, line.style)


def losses(lines: Sequence[Line]) -> Section | None:
    """Training loss, loss on the judged clients, and the terms of knowledge transfer."""
    named = len(lines) > 1
    charts = metric_charts(lines, lambda r: r.train, named, ["loss"], titles=["Training loss"])
    pairs: list[tuple[str, Callable[[Evaluation], float]]] = [
        ("after", lambda e: e.loss_after),
        ("before", lambda e: e.loss_before),
    ]
    if named:
        pairs = pairs[:1] if words.adapts(lines[0].run) else pairs[1:]
        title = "Loss on judged clients" + (" after adaptation" if pairs[0][0] == "after" else "")
        series = [evaluation_series(line, pairs[0][1]) for line in lines]
    else:
        title = "Loss on judged clients"
        styles = {"after": lines[0].style, "before": BASE}
        series = [
            evaluation_series(Line(lines[0].run, name, styles[name]), pick) for name, pick in pairs
        ]
    series = [s for s in series if any(map(math.isfinite, s.y))]
    if series:
        charts.append(line_chart(title, series, PLAIN, log=_wide(series)))
    terms = [key for key in _keys(lines, lambda r: r.method) if key.startswith("transfer_")]
    charts += metric_charts(lines, lambda r: r.method, named, terms)
    if not charts:
        return None
    text = ["Mean over the clients of a round, as they reported it."]
    if terms:
        text.append("Transfer terms compare the model with the private one on the server's images.")
    return Section("losses", "Losses", text, charts, grid=True)


def agreement(lines: Sequence[Line]) -> Section | None:
    """Primal and dual residual and the penalty rho of a method that works by consensus."""
    present = _keys(lines, lambda r: r.method)
    residuals = [key for key in _RESIDUALS if key in present]
    named = len(lines) > 1
    charts = []
    if named:
        charts = metric_charts(lines, lambda r: r.method, True, residuals, log=True)
    elif residuals:
        styles = ("0", "1")
        rounds = drawn(lines[0].run)
        series = [
            Series(
                key.partition("_")[0],
                [float(r.round) for r in rounds if key in r.method],
                [r.method[key] for r in rounds if key in r.method],
                style,
            )
            for key, style in zip(residuals, styles, strict=False)
        ]
        if any(v > 0 for s in series for v in s.y):
            charts.append(line_chart("Residuals", series, PLAIN, log=True))
    rho = [key for key in present if key == "rho" or key.startswith("rho_")]
    charts += metric_charts(lines, lambda r: r.method, named, rho)
    if not charts:
        return None
    text = [
        "The primal residual is how far the clients' models are from the shared one, the dual "
        "residual how far that one moved. Both fall where the fleet agrees."
    ]
    if rho:
        text.append("Rho is the weight that holds clients to the shared model.")
    return Section("agreement", "Agreement", text, charts, grid=True)


def other_metrics(lines: Sequence[Line]) -> Section | None:
    """Whatever else the method or the training recorded."""
    named = len(lines) > 1
    shown = {*_RESIDUALS, "rho"}
    train = [key for key in _keys(lines, lambda r: r.train) if key != "loss"]
    method = [
        key
        for key in _keys(lines, lambda r: r.method)
        if key not in shown and not key.startswith(("transfer_", "rho_"))
    ]
    charts = metric_charts(lines, lambda r: r.train, named, train)
    charts += metric_charts(lines, lambda r: r.method, named, method)
    text = ["As the method recorded them each round."]
    return Section("metrics", "Other figures", text, charts, grid=True) if charts else None


def traffic(lines: Sequence[Line]) -> Section | None:
    """Bytes a round and in all."""
    if not any(sum(scores.moved(line.run)) for line in lines):
        return None
    if len(lines) > 1:
        series = [
            _cumulated(line, lambda r: r.bytes_down + r.bytes_up, line.name) for line in lines
        ]
        unit = byte_unit(v for s in series for v in s.y)
        charts = [line_chart("Up and down, cumulated", series, unit, zero=True)]
        return Section("traffic", "Traffic", _traffic_text(lines), charts)
    up, down = Line(lines[0].run, "up", "0"), Line(lines[0].run, "down", BASE)
    rounds = drawn(up.run)
    x = [float(r.round) for r in rounds]
    each = [
        Series("up", x, [float(r.bytes_up) for r in rounds], up.style),
        Series("down", x, [float(r.bytes_down) for r in rounds], down.style),
    ]
    total = [
        _cumulated(up, lambda r: r.bytes_up, "up"),
        _cumulated(down, lambda r: r.bytes_down, "down"),
    ]
    charts = [
        line_chart(title, series, byte_unit(v for s in series for v in s.y), zero=True)
        for title, series in (("Each round", each), ("Cumulated", total))
    ]
    return Section("traffic", "Traffic", _traffic_text(lines), charts, grid=True)


def phases(run: Run) -> Section | None:
    """Seconds of each phase, stacked over rounds, and in all."""
    total = scores.phase_seconds(run)
    if not any(total.values()):
        return None
    rounds = drawn(run)
    numbers = [r.round for r in rounds]
    parts = [
        Series(
            phase, list(map(float, numbers)), [r.seconds.get(phase, 0.0) for r in rounds], str(i)
        )
        for i, phase in enumerate(list(total)[:STYLES])
    ]
    unit = time_unit(sum(r.seconds.values()) for r in rounds)
    everything = sum(total.values())
    rows = [
        [phase, words.duration(amount), f"{100 * amount / everything:.1f}\u00a0%"]
        for phase, amount in total.items()
    ]
    columns = [Column("Phase"), Column("In all", True), Column("Share", True)]
    longest = max(total, key=lambda phase: total[phase])
    text = [
        f"{words.duration(everything)} in all; {longest} took "
        f"{100 * total[longest] / everything:.0f}\u00a0% of it."
    ]
    chart = stacked_chart("Seconds of each phase", numbers, parts, unit)
    styles = [part.style for part in parts] + [BASE] * (len(total) - len(parts))
    return Section("time", "Time", text, [chart], [Table(columns, rows, styles)])


def metric_charts(
    lines: Sequence[Line],
    pick: Pick,
    named: bool,
    names: Sequence[str],
    *,
    titles: Sequence[str] = (),
    log: bool = False,
) -> list[Chart]:
    """A small chart for each metric in ``names`` that has any value."""
    charts = []
    for i, key in enumerate(names):
        series = []
        for line in lines:
            rounds = [r for r in drawn(line.run) if key in pick(r)]
            if rounds:
                x, y = [float(r.round) for r in rounds], [pick(r)[key] for r in rounds]
                series.append(Series(line.name, x, y, line.style))
        if any(math.isfinite(v) for s in series for v in s.y):
            title = titles[i] if titles else words.metric(key)
            positive = any(v > 0 for s in series for v in s.y)
            chart = line_chart(
                title, series, PLAIN, log=(log and positive) or _wide(series), named=named
            )
            charts.append(chart)
    return charts


def thinned(runs: Sequence[Run]) -> str:
    """A note where charts do not draw every round."""
    longest = max(len(run.rounds) for run in runs)
    stride = math.ceil(longest / MOST_DRAWN)
    return f"Charts draw every {stride}th round; totals count all." if stride > 1 else ""


def _traffic_text(lines: Sequence[Line]) -> list[str]:
    if len(lines) > 1:
        return ["Bytes of all messages between the server and its devices."]
    down, up = scores.moved(lines[0].run)
    return [f"{words.size(down)} went down to the devices and {words.size(up)} came up."]


def _cumulated(line: Line, pick: Callable[[Round], int], name: str) -> Series:
    total, sums = 0, {}
    for record in line.run.rounds:
        total += pick(record)
        sums[record.round] = float(total)
    x = [r.round for r in drawn(line.run)]
    return Series(name, list(map(float, x)), [sums[number] for number in x], line.style)


def _keys(lines: Sequence[Line], pick: Pick) -> list[str]:
    return list(dict.fromkeys(key for line in lines for key in scores.keys(line.run.rounds, pick)))


def _wide(series: Sequence[Series]) -> bool:
    values = [v for s in series for v in s.y if math.isfinite(v)]
    return bool(values) and min(values) > 0 and max(values) > _SPREAD * min(values)
