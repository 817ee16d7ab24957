"""The four kinds of charts of the report: lines, stacked bars, pairs and strips."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server_app.report import scales
from server_app.report.marks import (
    BASE,
    REST,
    WIDE,
    Band,
    Chart,
    Dot,
    Label,
    Path,
    Scale,
    Series,
    Tick,
    area,
    horizontal,
    polyline,
    spread_labels,
    vertical,
)
from server_app.report.scales import Unit

_NAME_LIMIT = 24  # letters of a name beside its line; the legend has all of it
_STRIP_ROW = 104  # height of a row of dots, px
_STRIP_FLOOR = 82  # where its dots stand, from the top of the row


@dataclass(frozen=True)
class Strip:
    """A row of dots: subject -> value, their mean and its standard error."""

    name: str
    style: str
    values: Mapping[str, float]
    mean: float
    error: float


def line_chart(
    title: str,
    series: Sequence[Series],
    unit: Unit,
    *,
    bands: Sequence[Band] = (),
    height: int = 190,
    log: bool = False,
    limits: tuple[float, float] = (-math.inf, math.inf),
    zero: bool = False,
    xunit: Unit | None = None,
    xname: str = "round",
    named: bool = True,
) -> Chart:
    """Lines over rounds, or over amounts in ``xunit`` where one is given.

    Parameters
    ----------
    log: logarithmic vertical axis; values that are not positive leave a gap.
    limits: values that the vertical axis does not exceed, such as shares 0 and 1.
    zero: the vertical axis starts at zero.
    named: lines carry their names at the right; otherwise only their last value.
    """
    values = [v for s in series for v in s.y] + [v for b in bands for v in (*b.low, *b.high)]
    ypos, yticks = vertical(values, unit, height, log=log, limits=limits, zero=zero)
    xs = sorted({x for s in series for x in s.x if math.isfinite(x)})
    xpos, xticks = horizontal(xs, xunit, wide=height >= WIDE)

    def head(x: float) -> str:
        return xunit.text(x) if xunit else f"{xname} {x:.0f}"

    chart = Chart(title, _describe(series, unit, head), height, yticks, xticks, xname)
    chart.note = "logarithmic" if log else ""
    for band in bands:
        edges = zip(band.x, band.low, band.high, strict=True)
        d = area([(xpos(x), ypos(a), ypos(b)) for x, a, b in edges])
        chart.paths.append(Path(d, "band", band.style))
    for line in series:
        points = [(xpos(x), ypos(y)) for x, y in zip(line.x, line.y, strict=True)]
        chart.paths.append(Path(polyline(points), "line", line.style))
        if line.style == REST:
            continue
        chart.dots += _ends(points, line)
        shown = [i for i, (_, y) in enumerate(points) if math.isfinite(y)]
        if shown:
            ended = math.isfinite(line.y[-1])
            text = unit.text(line.y[shown[-1]]) if ended else "diverged"
            name = _short(line.name) if named else ""
            chart.labels.append(Label(points[shown[-1]][1], name, text, line.style))
    spread_labels(chart.labels, height)
    series = [line for line in series if line.style != REST]
    if len(series) > 1:
        chart.legend = [(line.name, line.style) for line in series]
    chart.tips = _tips(series, bands, xs, xpos, unit, head)
    return chart


def stacked_chart(
    title: str, rounds: Sequence[int], parts: Sequence[Series], unit: Unit, *, height: int = 220
) -> Chart:
    """One bar a round, the parts stacked from the bottom in their order."""
    tops = [sum(p.y[i] for p in parts if math.isfinite(p.y[i])) for i in range(len(rounds))]
    ypos, yticks = vertical(tops, unit, height, limits=(0, math.inf), zero=True)
    # A thinned list of rounds has wider bars.
    width = min((b - a for a, b in itertools.pairwise(rounds)), default=1)
    xpos = Scale(min(rounds) - width / 2, max(rounds) + width / 2, 0, 100)
    count = 5 if max(rounds) < 1000 else 3
    ticks = scales.round_ticks(min(rounds), max(rounds), count)
    xticks = [Tick(xpos(tick), f"{tick:.0f}") for tick in ticks]
    half = width * (0.4 if len(rounds) <= 60 else 0.5)

    def head(x: float) -> str:
        return f"round {x:.0f}"

    chart = Chart(title, _describe(parts, unit, head), height, yticks, xticks, "round")
    floor = [0.0] * len(rounds)
    for part in parts:
        d = []
        for i, number in enumerate(rounds):
            if math.isfinite(part.y[i]) and part.y[i] > 0:
                x0, x1 = xpos(number - half), xpos(number + half)
                y0, y1 = ypos(floor[i]), ypos(floor[i] + part.y[i])
                d.append(f"M{x0:.2f},{y0:.1f}V{y1:.1f}H{x1:.2f}V{y0:.1f}Z")
                floor[i] += part.y[i]
        chart.paths.append(Path("".join(d), "bar", part.style))
    chart.legend = [(part.name, part.style) for part in parts]
    chart.swatch, chart.keep_legend = "area", True
    recorded = []
    for p in parts:
        kept = [(x, y) for x, y in zip(p.x, p.y, strict=True) if math.isfinite(y)]
        recorded.append(Series(p.name, [x for x, _ in kept], [y for _, y in kept], p.style))
    chart.tips = _tips(recorded, (), [float(r) for r in rounds], xpos, unit, head)
    return chart


def paired_chart(
    title: str,
    heads: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    unit: Unit,
    *,
    height: int = 240,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Chart:
    """One column a subject, sorted by ``after``: a ring before, a dot after, a stem between."""
    order = sorted(range(len(heads)), key=lambda i: (_low(after[i]), _low(before[i])))
    heads = [heads[i] for i in order]
    before, after = [before[i] for i in order], [after[i] for i in order]
    ypos, yticks = vertical([*before, *after], unit, height, limits=limits)
    xs = [100 * (i + 0.5) / len(heads) for i in range(len(heads))]
    described = f"{len(heads)} clients, sorted by the value after"
    chart = Chart(title, described, height, yticks, [], "clients, sorted")
    columns = list(zip(xs, before, after, strict=True))
    for style, lost in (("0", False), ("1", True)):
        stems = [
            f"M{x:.2f},{ypos(b):.1f}V{ypos(a):.1f}"
            for x, b, a in columns
            if math.isfinite(a + b) and a != b and (a < b) is lost
        ]
        if stems:
            chart.paths.append(Path("".join(stems), "stem", style))
    for x, b, a in columns:
        if math.isfinite(b):
            chart.dots.append(Dot(x, ypos(b), "ring", BASE))
        if math.isfinite(a):
            chart.dots.append(Dot(x, ypos(a), "dot", "1" if a < b else "0"))
    rows = (("after", "0", after), ("before", BASE, before))
    chart.tips = {
        "x": [round(x, 2) for x in xs],
        "heads": heads,
        "rows": [
            {"name": name, "style": style, "values": [unit.text(v) for v in values]}
            for name, style, values in rows
        ],
    }
    return chart


def strip_chart(title: str, strips: Sequence[Strip], unit: Unit) -> Chart:
    """A row of stacked dots for each strip, its mean below with 95 % of the sampling error."""
    values = [v for strip in strips for v in strip.values.values() if math.isfinite(v)]
    bare = Unit(scale=unit.scale)
    low, high = min([*values, 0.0]) / unit.scale, max([*values, 0.0]) / unit.scale
    ticks = [tick * unit.scale for tick in scales.linear_ticks(low, high, 6)]
    xpos = Scale(ticks[0], ticks[-1], 0, 100)
    xticks = [Tick(xpos(t), label) for t, label in zip(ticks, bare.ticks(ticks), strict=True)]
    described = "; ".join(
        f"{strip.name}: mean {unit.signed(strip.mean)} over {len(strip.values)} clients"
        for strip in strips
    )
    chart = Chart(title, described, _STRIP_ROW * len(strips), [], xticks)
    chart.zero, chart.note = xpos(0.0), unit.suffix
    for index, strip in enumerate(strips):
        top = _STRIP_ROW * index
        chart.dots += _stack(strip, xpos, top + _STRIP_FLOOR, unit)
        mean, below = strip.mean, top + _STRIP_FLOOR + 13
        if math.isfinite(mean):
            if math.isfinite(strip.error):
                ends = [xpos(mean + side * 1.96 * strip.error) for side in (-1, 1)]
                d = f"M{ends[0]:.2f},{below}H{ends[1]:.2f}"
                chart.paths.append(Path(d, "whisker", strip.style))
            chart.dots.append(
                Dot(xpos(mean), below, "dot", strip.style, f"mean {unit.signed(mean)}")
            )
        chart.rows.append(Label(top + 14, strip.name, unit.signed(mean), strip.style))
    return chart


def _stack(strip: Strip, xpos: Scale, floor: float, unit: Unit) -> list[Dot]:
    """Dots on ``floor``, those of nearly equal value on top of each other."""
    columns: dict[int, list[tuple[str, float]]] = {}
    for subject, value in sorted(strip.values.items(), key=lambda item: _low(item[1])):
        if math.isfinite(value):
            columns.setdefault(round(xpos(value) / 1.4), []).append((subject, value))
    tallest = max(map(len, columns.values()), default=1)
    gap = min(8.0, (_STRIP_FLOOR - 24) / max(tallest - 1, 1))
    return [
        Dot(xpos(v), floor - gap * i, "soft", strip.style, f"client {name}: {unit.signed(v)}")
        for column in columns.values()
        for i, (name, v) in enumerate(column)
    ]


def _ends(points: Sequence[tuple[float, float]], line: Series) -> list[Dot]:
    """A mark at the last value, a cross where the line diverges there, and at lone values."""
    shown = [math.isfinite(x + y) for x, y in points]
    final = max((i for i, there in enumerate(shown) if there), default=-1)
    marks = []
    for i, (x, y) in enumerate(points):
        if i == final:
            cross = final + 1 < len(points) and not math.isfinite(line.y[-1])
            marks.append(Dot(x, y, "cross" if cross else "dot", line.style))
        elif shown[i] and not any(shown[max(0, i - 1) : i]) and not shown[i + 1]:
            marks.append(Dot(x, y, "dot", line.style))
    return marks


def _tips(
    series: Sequence[Series],
    bands: Sequence[Band],
    xs: Sequence[float],
    xpos: Scale,
    unit: Unit,
    head: Callable[[float], str],
) -> dict[str, Any]:
    """What a pointer shows at each x: a heading, and the value of every line that has one."""
    rows = []
    for line in series:
        at = dict(zip(line.x, line.y, strict=True))
        values = [unit.text(at[x]) if x in at else "" for x in xs]
        rows.append({"name": line.name, "style": line.style, "values": values})
    for band in bands:
        ends = {x: (a, b) for x, a, b in zip(band.x, band.low, band.high, strict=True)}
        pairs = [ends.get(x, (math.nan, math.nan)) for x in xs]
        texts = [f"{unit.text(a)} to {unit.text(b)}" if math.isfinite(a) else "" for a, b in pairs]
        rows.append({"name": band.name, "style": band.style, "values": texts})
    return {"x": [round(xpos(x), 2) for x in xs], "heads": [head(x) for x in xs], "rows": rows}


def _describe(series: Sequence[Series], unit: Unit, head: Callable[[float], str]) -> str:
    """The chart in words, for those who do not see it."""
    parts = []
    for line in series:
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        if points:
            first, final = (f"{unit.text(y)} at {head(x)}" for x, y in (points[0], points[-1]))
            parts.append(f"{line.name}: from {first} to {final}")
    return "; ".join(parts) + "." if parts else "No values."


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LIMIT else name[: _NAME_LIMIT - 1].rstrip() + "…"


def _low(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
