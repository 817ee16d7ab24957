"""What charts are made of: marks, axes, and the arithmetic of where they go.

Horizontal positions are percentages and vertical ones pixels, so that a chart fills any width
while its text, strokes and height stay as they are; no script and no second rendering is needed
for a phone. Paths are drawn in a nested viewport that is 100 wide and ``height`` tall.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server_app.report import scales
from server_app.report.scales import Unit

BASE = "base"  # the style of what others are compared with; the rest are "0", "1", ...
REST = "rest"  # lines beyond the styles: grey, without a name
STYLES = 7  # numbered styles that the style sheet knows
_LARGEST = 1e100
WIDE = 240  # charts of at least this height stand alone and have room for more ticks, px
_DIGIT = 7.8  # width of a bold digit in the chart's font, px
_LETTER = 7.1
_NO_AXIS = 14  # room at the left of a chart without vertical axis, px
_AXIS_NAME = 48  # least room at the left: the name of the horizontal axis stands there, px
_LABEL_GAP = 16.0  # least distance of two labels at the right, px


@dataclass(frozen=True)
class Series:
    """One line: ``y`` over ``x``, broken where ``y`` is not finite."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "0"


@dataclass(frozen=True)
class Band:
    """The area between ``low`` and ``high``."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    style: str = "0"


@dataclass(frozen=True)
class Tick:
    """A tick at ``at``: percent on the horizontal axis, pixels on the vertical one."""

    at: float
    label: str


@dataclass(frozen=True)
class Path:
    """An SVG path in the nested viewport; ``kind`` is line, band, stem or bar."""

    d: str
    kind: str
    style: str


@dataclass(frozen=True)
class Dot:
    """A mark; ``kind`` is dot, ring or cross."""

    x: float
    y: float
    kind: str
    style: str
    title: str = ""


@dataclass
class Label:
    """Name and value of a line at its right end."""

    y: float
    name: str
    value: str
    style: str


@dataclass
class Chart:
    """All that the template needs to draw one chart."""

    title: str
    description: str
    height: int
    yticks: list[Tick]
    xticks: list[Tick]
    xname: str = ""
    note: str = ""
    paths: list[Path] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)  # name, style
    swatch: str = "line"  # how the legend shows a style: line or area
    keep_legend: bool = False  # also where the chart is wide enough to name its lines
    tips: dict[str, Any] = field(default_factory=dict)
    zero: float | None = None  # percent at which a vertical zero line stands
    rows: list[Label] = field(default_factory=list)  # names of rows, inside the plot

    @property
    def left(self) -> int:
        """Room for the labels of the vertical axis, px."""
        longest = max((len(tick.label) for tick in self.yticks), default=0)
        return max(_AXIS_NAME, round(10 + _DIGIT * longest)) if self.yticks else _NO_AXIS

    @property
    def right(self) -> int:
        """Room for names and values at the right, px."""
        names = max((len(label.name) + len(label.value) + 1 for label in self.labels), default=0)
        return round(14 + _LETTER * names) if names else self._half_tick()

    @property
    def right_narrow(self) -> int:
        """Room for values alone, px."""
        values = max((len(label.value) for label in self.labels), default=0)
        return round(12 + _DIGIT * values) if values else self._half_tick()

    def _half_tick(self) -> int:
        """Room for the half of a last tick's label that is beyond the axis, px."""
        last = max(self.xticks, key=lambda tick: tick.at, default=None)
        return 8 + round(_DIGIT * len(last.label) / 2) if last and last.at > 90 else 8


@dataclass(frozen=True)
class Scale:
    """Data to position: linear or logarithmic, onto ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of ``value``; NaN where it has none."""
        if not drawable(value) or (self.log and value <= 0):
            return math.nan
        low, high, at = (
            (math.log10(self.low), math.log10(self.high), math.log10(value))
            if self.log
            else (self.low, self.high, value)
        )
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def drawable(value: float) -> bool:
    """Whether a chart has a place for the value; the largest ones would overflow its axis."""
    return abs(value) < _LARGEST


def vertical(
    values: Sequence[float],
    unit: Unit,
    height: int,
    *,
    log: bool = False,
    limits: tuple[float, float] = (-math.inf, math.inf),
    zero: bool = False,
) -> tuple[Scale, list[Tick]]:
    """The vertical axis that holds all finite ``values``, and its ticks."""
    usable = [v for v in values if drawable(v) and (v > 0 or not log)]
    low, high = (min(usable), max(usable)) if usable else (1.0, 1.0)
    if log:
        ticks = scales.log_ticks(low, high)
        labels = scales.log_labels(ticks)
    else:
        low = min(low, 0.0) if zero else low
        inner = (limits[0] / unit.scale, limits[1] / unit.scale)
        count = 5 if height >= WIDE else 4
        plain = scales.linear_ticks(low / unit.scale, high / unit.scale, count, inner)
        ticks = [tick * unit.scale for tick in plain]
        labels = unit.ticks(ticks)
    position = Scale(ticks[0], ticks[-1], height, 0, log)
    return position, [Tick(position(t), text) for t, text in zip(ticks, labels, strict=True)]


def horizontal(xs: Sequence[float], unit: Unit | None, *, wide: bool) -> tuple[Scale, list[Tick]]:
    """The horizontal axis of sorted ``xs``: rounds, or amounts from zero in ``unit``."""
    if not xs:
        return Scale(0, 1, 0, 100), []
    if unit is None:
        # Charts that begin with round 1 share their axis with those that begin before training.
        first = 0.0 if xs[0] == 1 and len(xs) > 1 else xs[0]
        scale = Scale(first, xs[-1], 0, 100)
        count = 5 if wide else 4 if xs[-1] < 1000 else 2
        ticks = scales.round_ticks(math.ceil(first), math.floor(xs[-1]), count)
        return scale, [Tick(scale(t), f"{t:.0f}") for t in ticks]
    end = xs[-1] or unit.scale
    scale = Scale(0, end, 0, 100)
    ticks = [t * unit.scale for t in scales.linear_ticks(0, end / unit.scale)]
    ticks = [tick for tick in ticks if tick <= end]
    return scale, [Tick(scale(t), text) for t, text in zip(ticks, unit.ticks(ticks), strict=True)]


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Path data through ``points``, with a gap wherever one is not finite."""
    parts, pen_down = [], False
    for x, y in points:
        finite = math.isfinite(x + y)
        if finite:
            parts.append(f"{'L' if pen_down else 'M'}{x:.2f},{y:.1f}")
        pen_down = finite
    return "".join(parts)


def area(points: Sequence[tuple[float, float, float]]) -> str:
    """Closed outlines between (x, low, high), one for each stretch in which all are finite."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for point in points:
        if all(map(math.isfinite, point)):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    outlines = []
    for stretch in stretches:
        if len(stretch) > 1:
            edge = [(x, a) for x, a, _ in stretch] + [(x, b) for x, _, b in reversed(stretch)]
            outlines.append(polyline(edge) + "Z")
    return "".join(outlines)


def spread_labels(labels: list[Label], height: int) -> None:
    """Move labels apart so that none overlaps another, as little as that takes."""
    labels.sort(key=lambda label: label.y)
    for above, below in itertools.pairwise(labels):
        below.y = max(below.y, above.y + _LABEL_GAP)
    floor = float(height)
    for label in reversed(labels):
        label.y = min(label.y, floor)
        floor = label.y - _LABEL_GAP
