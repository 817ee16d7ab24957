"""Axis ticks and the way that numbers are written: one place for both, so that they agree."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NBSP = "\u00a0"
MINUS = "\u2212"
NOT_A_NUMBER = "not a number"
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Unit:
    """How the values of a chart are written: ``value / scale``, then the suffix."""

    suffix: str = ""
    scale: float = 1.0
    decimals: int | None = None  # None: three significant digits

    def text(self, value: float) -> str:
        """The value with its unit, as in labels and tooltips."""
        if not math.isfinite(value):
            return NOT_A_NUMBER
        shown = value / self.scale
        number = significant(shown) if self.decimals is None else fixed(shown, self.decimals)
        return f"{number}{NBSP}{self.suffix}" if self.suffix else number

    def signed(self, value: float) -> str:
        """As ``text``, with a plus sign where the value is positive."""
        text = self.text(value)
        return f"+{text}" if value > 0 and any(c in "123456789" for c in text) else text

    def ticks(self, values: Sequence[float]) -> list[str]:
        """Labels of the ticks of one axis, all with the same decimals; the top one has the unit."""
        shown = [value / self.scale for value in values]
        step = min((b - a for a, b in itertools.pairwise(shown)), default=1.0)
        decimals = decimals_of(step)
        plain = max(map(abs, shown), default=0) < 1e5 and decimals <= 4
        labels = [fixed(v, decimals) if plain else significant(v) for v in shown]
        if self.suffix and labels:
            labels[-1] += f"{NBSP}{self.suffix}"
        return labels


PLAIN = Unit()
PERCENT = Unit("%", 0.01, 1)
POINTS = Unit("points", 0.01, 1)


def byte_unit(values: Iterable[float]) -> Unit:
    """The decimal unit of bytes in which the largest value is at least one."""
    top = max((abs(v) for v in values if math.isfinite(v)), default=0)
    for suffix, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if top >= scale:
            return Unit(suffix, scale)
    return Unit("B")


def time_unit(values: Iterable[float]) -> Unit:
    """Seconds, or the larger or smaller unit in which the largest value reads easily."""
    top = max((abs(v) for v in values if math.isfinite(v)), default=0)
    for suffix, scale, least in (("h", 3600.0, 7200), ("min", 60.0, 180), ("s", 1.0, 0.5)):
        if top >= least:
            return Unit(suffix, scale)
    return Unit("ms", 1e-3)


def fixed(value: float, decimals: int) -> str:
    """The value with that many decimals and a true minus sign; no negative zero."""
    text = f"{value:.{decimals}f}"
    if text.startswith("-"):
        return text[1:] if float(text) == 0 else MINUS + text[1:]
    return text


def significant(value: float, digits: int = 3) -> str:
    """The value to so many significant digits; very large and very small ones as powers of ten."""
    if not math.isfinite(value):
        return NOT_A_NUMBER
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if value == 0 or -4 <= power < 5:
        text = fixed(value, max(0, digits - 1 - power) if value else 0)
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", MINUS)
    ten = "10" + str(power).translate(_SUPERSCRIPT)
    return ten if mantissa == "1" else f"{mantissa}·{ten}"


def decimals_of(step: float) -> int:
    """Decimals that tell two neighbouring ticks apart, for steps of 1, 2, 2.5 or 5 times 10^k."""
    for decimals in range(12):
        if math.isclose(round(step, decimals), step, rel_tol=1e-6):
            return decimals
    return 12


def linear_ticks(
    low: float, high: float, count: int = 5, limits: tuple[float, float] = (-math.inf, math.inf)
) -> list[float]:
    """At most ``count + 1`` round numbers that enclose ``low`` to ``high`` within ``limits``."""
    if high <= low:
        margin = abs(low) * 0.1 or 0.5
        low, high = max(low - margin, limits[0]), min(high + margin, limits[1])
    step = _step((high - low) / count)
    while math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9) > count:
        step = _step(step * 1.01)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1)]
    return [tick for tick in ticks if limits[0] - 1e-12 <= tick <= limits[1] + 1e-12]


def round_ticks(low: int, high: int, count: int = 5) -> list[float]:
    """Whole numbers within ``low`` to ``high``, evenly spaced; for an axis of rounds."""
    if high <= low:
        return [float(low)]
    step = max(1, _step((high - low) / count))
    if step == 2.5:
        step = 5
    first = math.ceil(low / step)
    return [float(i * step) for i in range(first, math.floor(high / step) + 1)]


def log_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Ticks of a logarithmic axis that enclose ``low`` to ``high``, both positive.

    Powers of ten, thinned to about ``count``; within two decades also their 2 and 5 folds.
    """
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last - first > 2:
        stride = math.ceil((last - first) / count)
        powers = list(range(first, last + 1, stride))
        if powers[-1] < last:
            powers.append(powers[-1] + stride)
        return [10.0**power for power in powers]
    fine = [m * 10.0**power for power in range(first - 1, last + 1) for m in (1, 2, 5)]
    start = max(i for i, tick in enumerate(fine) if tick <= low * (1 + 1e-9) or i == 0)
    end = min(i for i, tick in enumerate(fine) if tick >= high * (1 - 1e-9) or i == len(fine) - 1)
    if start == end:
        start, end = max(0, start - 1), min(len(fine) - 1, end + 1)
    return fine[start : end + 1]


def log_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of logarithmic ticks: plain numbers, or all powers of ten when any is extreme."""
    if all(1e-3 <= tick < 1e5 for tick in ticks):
        return [significant(tick) for tick in ticks]
    labels = []
    for tick in ticks:
        power = math.floor(math.log10(tick) + 1e-9)
        factor = round(tick / 10.0**power)
        ten = "10" + str(power).translate(_SUPERSCRIPT)
        labels.append(ten if factor == 1 else f"{factor}·{ten}")
    return labels


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    for factor in (1, 2, 2.5, 5, 10):
        if factor * power >= least * (1 - 1e-9):
            return factor * power
    return 10 * power
