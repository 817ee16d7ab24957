"""Charts as data: the page's script draws them with ECharts, ``figures.py`` with matplotlib."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from server_app.report.scales import PERCENT, PLAIN, Unit

BASE = "base"  # the style of what others are compared with; the rest are "0", "1", ...
REST = "rest"  # lines beyond the styles: grey, without a name
_COLUMNS = 200  # clients in a chart of pairs
STYLES = 7  # numbered styles that the style sheet knows
_LARGEST = 1e100  # beyond it, an axis would overflow


@dataclass(frozen=True)
class Series:
    """One line, or one part of stacked bars: ``y`` over ``x``; a gap where ``y`` is not finite."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "0"


@dataclass(frozen=True)
class Band:
    """The area between ``low`` and ``high``, of the line that has the same style."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    style: str = "0"


@dataclass(frozen=True)
class Event:
    """What happened in a round beside training, such as that the method fell back."""

    round: int
    kind: str


@dataclass
class Chart:
    """One chart.

    Attributes
    ----------
    kind: lines; bars, stacked in the order of ``series``; pairs, a dot and a ring over ``heads``.
    limits: values that the vertical axis does not exceed, such as shares 0 and 1.
    log: logarithmic vertical axis; values that are not positive leave a gap.
    zero: the vertical axis starts at zero.
    xunit: of amounts on the horizontal axis; None for rounds.
    ends: what stands at the right end of a line.
    legend: whether the chart has its own; its lines are hidden and shown by it.
    """

    kind: Literal["lines", "bars", "pairs"]
    title: str
    series: Sequence[Series]
    unit: Unit = PLAIN
    bands: Sequence[Band] = ()
    heads: Sequence[str] = ()
    events: Sequence[Event] = ()
    height: int = 220
    log: bool = False
    zero: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)
    xunit: Unit | None = None
    xname: str = "round"
    ends: Literal["names", "values", "none"] = "names"
    legend: bool = True
    note: str = field(default="")

    @property
    def entries(self) -> list[tuple[str, str]]:
        """Name and style of all that the legend names."""
        found = [(line.name, line.style) for line in self.series if line.style != REST]
        return found if len(found) > 1 and self.kind in ("lines", "bars") else []

    @property
    def description(self) -> str:
        """The chart in words, for those who do not see it."""
        if self.kind == "pairs":
            return f"{len(self.heads)} clients, sorted by {self.series[0].name}"
        said = []
        for line in self.series:
            points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
            if points:
                first, final = (f"{self.unit.text(y)} at {self.head(x)}" for x, y in _ends(points))
                said.append(f"{line.name}: from {first} to {final}")
        return "; ".join(said) + "." if said else "No values."

    def head(self, x: float) -> str:
        """A place on the horizontal axis in words."""
        return self.xunit.text(x) if self.xunit else f"{self.xname} {x:.0f}"

    def data(self) -> dict[str, Any]:
        """All that the page's script needs; figures in units, None where they are not finite."""
        found = asdict(self) | {"limits": _figures(self.limits, self.unit.scale)}
        for part in (*found["series"], *found["bands"]):
            for name in part.keys() & {"x", "y", "low", "high"}:
                unit = self.unit if name != "x" else self.xunit or PLAIN
                part[name] = _figures(part[name], unit.scale)
        return found


def drawable(value: float) -> bool:
    """Whether a chart has a place for the value."""
    return abs(value) < _LARGEST


def paired_chart(
    title: str,
    heads: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    names: tuple[str, str] = ("before", "after"),
) -> Chart:
    """One column a client, sorted by ``after``: a ring before, a dot after, a stem between.

    Values are shares. Of more clients than there are columns, every k-th is drawn.
    """
    order = sorted(range(len(heads)), key=lambda i: (_low(after[i]), _low(before[i])))
    stride = math.ceil(len(order) / _COLUMNS)
    order = order[:: max(stride, 1)]
    x = list(map(float, range(len(order))))
    pair = [
        Series(names[1], x, [after[i] for i in order], "0"),
        Series(names[0], x, [before[i] for i in order], BASE),
    ]
    return Chart(
        "pairs", title, pair, PERCENT, heads=[heads[i] for i in order], limits=(0.0, 1.0),
        height=260, xname="clients, sorted", note=f"one client in {stride}" if stride > 1 else "",
    )  # fmt: skip


def _figures(values: Sequence[float], scale: float) -> list[float | None]:
    return [float(f"{v / scale:.6g}") if drawable(v) else None for v in values]


def _ends(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return points[0], points[-1]


def _low(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
