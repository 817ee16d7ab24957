"""What a run cost: bytes on the wire and seconds of each phase."""

import math
from collections.abc import Callable, Sequence

from server_app.report import scores, words
from server_app.report.charts import BASE, Chart, Series
from server_app.report.scales import NBSP, byte_unit, time_unit
from server_app.report.sections import Column, Line, Section, Table, drawn
from server_app.runs.record import Round, Run

_PHASES = {  # style of each phase, in the order in which a round goes through them
    "waiting": "4",
    "broadcast": "5",
    "train": "0",
    "absorb": "2",
    "update": "1",
    "evaluate": "6",
    "checkpoint": BASE,
}
_OTHER_PHASE = "3"


def traffic(lines: Sequence[Line]) -> Section | None:
    """Bytes a round and in all."""
    if not any(sum(scores.traffic(line.run)) for line in lines):
        return None
    if len(lines) > 1:
        series = [
            _cumulated(line, lambda r: r.bytes_down + r.bytes_up, line.name) for line in lines
        ]
        unit = byte_unit(v for s in series for v in s.y)
        chart = Chart("lines", "Up and down, cumulated", series, unit, zero=True)
        text = ["Bytes of all messages between the server and its devices."]
        return Section("traffic", "Traffic", text, [chart])
    run = lines[0].run
    rounds = drawn(run)
    numbers = [r.round for r in rounds]
    x = list(map(float, numbers))
    each = [
        Series("up", x, [float(r.bytes_up) for r in rounds], "0"),
        Series("down", x, [float(r.bytes_down) for r in rounds], BASE),
    ]
    total = [
        _cumulated(Line(run, "up", "0"), lambda r: r.bytes_up, "up"),
        _cumulated(Line(run, "down", BASE), lambda r: r.bytes_down, "down"),
    ]
    unit = byte_unit(float(r.bytes_up + r.bytes_down) for r in rounds)
    charts = [
        Chart("bars", "Each round", each, unit, heads=list(map(str, numbers))),
        Chart("lines", "Cumulated", total, byte_unit(v for s in total for v in s.y), zero=True),
    ]
    down, up = scores.traffic(run)
    text = [f"{words.size(down)} went down to the devices and {words.size(up)} came up."]
    return Section("traffic", "Traffic", text, charts, grid=True)


def phases(run: Run) -> Section | None:
    """Seconds of each phase, stacked over rounds, and in all."""
    total = phase_totals(run)
    everything = sum(total.values())
    if not everything:
        return None
    rounds = drawn(run)
    numbers = [r.round for r in rounds]
    parts = [
        Series(
            phase,
            list(map(float, numbers)),
            [r.seconds.get(phase, math.nan) for r in rounds],
            _PHASES.get(phase, _OTHER_PHASE),
        )
        for phase in total
    ]
    unit = time_unit(sum(scores.finite(r.seconds.values())) for r in rounds)
    rows = [
        [phase, words.duration(amount), f"{100 * amount / everything:.1f}{NBSP}%"]
        for phase, amount in total.items()
    ]
    table = Table(
        [Column("Phase"), Column("In all", True), Column("Share", True)],
        rows,
        [part.style for part in parts],
        bars=True,
    )
    longest = max(total, key=lambda phase: total[phase])
    text = [
        f"{words.duration(everything)} in all; {longest} took "
        f"{100 * total[longest] / everything:.0f}{NBSP}% of it."
    ]
    heads = list(map(str, numbers))  # the table below names the colours
    chart = Chart(
        "bars", "Each round, by phase", parts, unit, heads=heads, height=250, legend=False
    )
    return Section("time", "Time", text, [chart], [table])


def phase_totals(run: Run) -> dict[str, float]:
    """Phase -> seconds in all, in the order in which a round goes through them."""
    measured = scores.phase_seconds(run)
    order = [*(p for p in _PHASES if p in measured), *(p for p in measured if p not in _PHASES)]
    return {phase: measured[phase] for phase in order}


def _cumulated(line: Line, pick: Callable[[Round], int], name: str) -> Series:
    total, sums = 0, {}
    for record in line.run.rounds:
        total += pick(record)
        sums[record.round] = float(total)
    x = [r.round for r in drawn(line.run)]
    return Series(name, list(map(float, x)), [sums[number] for number in x], line.style)
