"""The way that numbers are written, and the units that suit them."""

import math
from collections.abc import Iterable
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
