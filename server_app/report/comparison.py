"""The sections of the page that compares several runs."""

import math
from collections.abc import Sequence
from statistics import stdev

from server_app.report import scores, words
from server_app.report.charts import REST, Band, Chart, Series, paired_chart
from server_app.report.costs import phase_totals, traffic
from server_app.report.scales import PERCENT, byte_unit, fixed
from server_app.report.sections import (
    BAND,
    Column,
    Line,
    Section,
    Table,
    agreement,
    evaluated,
    evaluation_series,
    losses,
    other_metrics,
    over_seeds,
)
from server_app.runs.record import Run

_SHARES = (0.0, 1.0)


def sections_of(lines: Sequence[Line], base: int) -> list[Section]:
    """All sections for which the records have data, in order."""
    found = [
        _accuracy(lines),
        _by_client(lines, base),
        _before(lines),
        _against_bytes(lines),
        losses(lines),
        agreement(lines),
        other_metrics(lines),
        traffic(lines),
        _time(lines),
        _replies(lines),
        _differing(lines),
    ]
    return [section for section in found if section is not None]


def results(lines: Sequence[Line], base: int) -> Table:
    """The table at the top: what each run reached and what it cost."""
    names = ["Last", "Difference, points", "Spread", "Best", "Rounds", "Down", "Up", "Time"]
    columns = [Column("Run"), *(Column(name, True) for name in names), Column("Status")]
    rows = []
    for i, line in enumerate(lines):
        run, final, best = line.run, scores.last(line.run), scores.best(line.run)
        found = scores.difference(run, lines[base].run) if i != base else None
        down, up = scores.traffic(run)
        diverged = scores.diverged_at(run)
        status = f"diverged in round {diverged}" if diverged is not None else run.meta.status
        rows.append(
            [
                line.name,
                _percent(final.after) + _over_seeds(run) if final else "–",
                "reference" if i == base else words.difference_text(found),
                fixed(100 * final.std, 1) if final and math.isfinite(final.std) else "–",
                f"{_percent(best.after)} (round {best.round})" if best else "–",
                str(run.rounds[-1].round if run.rounds else 0),
                words.size(down) if down else "–",
                words.size(up) if up else "–",
                words.duration(scores.seconds(run)) if run.rounds else "–",
                status,
            ]
        )
    return Table(columns, rows, [line.style for line in lines])


def _over_seeds(run: Run) -> str:
    """The standard deviation over seeds of a mean, in points."""
    if not run.members:
        return ""
    return f" ± {fixed(100 * stdev(scores.finals(run)), 1)}"


def settings_table(runs: Sequence[Run], names: Sequence[str], *, only_differing: bool) -> Table:
    """Settings, seeds, model and versions, a column for each run."""
    flat = [_everything(run) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    rows = [[key, *(values.get(key, "–") for values in flat)] for key in keys]
    if only_differing:
        rows = [row for row in rows if len(set(row[1:])) > 1]
    columns = [Column("Setting"), *(Column(name) for name in names)]
    return Table(columns, rows, fold="" if only_differing else "All settings and versions")


def _accuracy(lines: Sequence[Line]) -> Section | None:
    pairs = [(line, evaluation_series(line, lambda e: e.accuracy_after)) for line in lines]
    series = [s for _, s in pairs if any(map(math.isfinite, s.y))]
    if not series:
        return None
    bands = [band for line, s in pairs for band in over_seeds(line, s, _accuracies, _SHARES)]
    text = [BAND] if bands else []
    if grey := sum(line.style == REST for line in lines):
        text.append(f"{words.count(grey, 'run')} that ended lower are grey; the table has all.")
    if len(lines) == 2 and not bands:
        for line in lines:
            done = evaluated(line.run)
            samples = [[c.accuracy_after for c in e.clients] for _, e in done]
            low, high = scores.spread(samples, 25, 75)
            if any(map(math.isfinite, low)):
                x = [float(r.round) for r, _ in done]
                bands.append(Band(f"{line.name}, half", x, low, high, line.style))
        if bands:
            text.append("The bands hold the middle half of the clients.")
    where = "clients that never took part" if _targets(lines) else "clients"
    adapted = "after adaptation " if words.adapts(lines[0].run) else ""
    chart = Chart("lines", "Mean over clients", series, PERCENT, bands, height=370, limits=_SHARES)
    return Section("accuracy", f"Accuracy {adapted}on {where}", text, [chart])


def _accuracies(run: Run) -> dict[int, float]:
    return {r.round: e.accuracy_after for r, e in run.evaluated}


def _by_client(lines: Sequence[Line], base: int) -> Section | None:
    charts, rows = [], []
    for i, line in enumerate(lines):
        pairs = scores.client_pairs(line.run, lines[base].run)
        if i == base or line.style == REST or not pairs:
            continue
        before, after = zip(*pairs.values(), strict=True)
        names = (lines[base].name, line.name)
        charts.append(paired_chart(line.name, [f"client {c}" for c in pairs], before, after, names))
        signs = [(new > old) - (new < old) for old, new in pairs.values()]
        rows.append([line.name, *(str(signs.count(sign)) for sign in (1, 0, -1))])
    if not charts:
        return None
    text = [
        f"A column is a client: ring with “{lines[base].name}”, dot with the other run, orange "
        "where that is lower. Last accuracies."
    ]
    columns = [Column("Run"), *(Column(name, True) for name in ("Gain", "Equal", "Lose"))]
    return Section("by-client", "Who gains", text, charts, [Table(columns, rows)], grid=True)


def _before(lines: Sequence[Line]) -> Section | None:
    if not any(words.adapts(line.run) for line in lines):
        return None
    series = [evaluation_series(line, lambda e: e.accuracy_before) for line in lines]
    series = [s for s in series if any(map(math.isfinite, s.y))]
    if not series:
        return None
    chart = Chart("lines", "Mean over clients", series, PERCENT, height=270, limits=_SHARES)
    text = ["The model as it is sent, before a client has seen a label of its own."]
    return Section("before", "Before adaptation", text, [chart])


def _against_bytes(lines: Sequence[Line]) -> Section | None:
    series = []
    for line in lines:
        sums, total = {}, 0
        for record in line.run.rounds:
            total += record.bytes_down + record.bytes_up
            sums[record.round] = float(total)
        pairs = evaluated(line.run)
        if total and pairs:
            x, y = [sums[r.round] for r, _ in pairs], [e.accuracy_after for _, e in pairs]
            series.append(Series(line.name, x, y, line.style))
    if not any(math.isfinite(v) for s in series for v in s.y):
        return None
    unit = byte_unit(x for s in series for x in s.x)
    chart = Chart(
        "lines", "Accuracy against bytes moved", series, PERCENT, height=270, limits=_SHARES,
        xunit=unit, xname="moved",
    )  # fmt: skip
    text = ["What a byte on the wire buys: accuracy against all bytes up and down so far."]
    return Section("bytes", "Accuracy a byte", text, [chart])


def _time(lines: Sequence[Line]) -> Section | None:
    columns = [Column("Run"), Column("In all", True), Column("A round", True)]
    totals = [phase_totals(line.run) for line in lines]
    phases = list(dict.fromkeys(phase for total in totals for phase in total))
    if not any(sum(total.values()) for total in totals):
        return None
    columns += [Column(phase, True) for phase in phases]
    rows = []
    for line, total in zip(lines, totals, strict=True):
        everything = sum(total.values())
        done = max(line.run.rounds[-1].round, 1) if line.run.rounds else 1
        cells = [words.duration(total[phase]) if phase in total else "–" for phase in phases]
        rows.append(
            [line.name, words.duration(everything), words.duration(everything / done), *cells]
        )
    text = ["Seconds that the server measured, by phase."]
    return Section("time", "Time", text, [], [Table(columns, rows, [x.style for x in lines])])


def _replies(lines: Sequence[Line]) -> Section | None:
    rows, asked = [], 0
    for line in lines:
        rounds = line.run.rounds
        numbers = [
            sum(r.asked for r in rounds),
            sum(len(r.missing) for r in rounds),
            sum(r.refused for r in rounds),
        ]
        asked += numbers[0]
        rows.append([line.name, *map(str, numbers)])
    if not asked:
        return None
    columns = [
        Column("Run"),
        Column("Asked", True),
        Column("Missing", True),
        Column("Rejected", True),
    ]
    text = ["Requests to train, and replies that did not come or were not admitted."]
    return Section("replies", "Replies", text, [], [Table(columns, rows, [x.style for x in lines])])


def _differing(lines: Sequence[Line]) -> Section | None:
    runs, names = [line.run for line in lines], [line.name for line in lines]
    table = settings_table(runs, names, only_differing=True)
    if not table.rows:
        return Section("differences", "What differs", ["Nothing: the runs have equal settings."])
    return Section("differences", "What differs", ["Settings that are not equal."], [], [table])


def _everything(run: Run) -> dict[str, str]:
    meta = run.meta
    values = {key: _text(value) for key, value in meta.settings.items()}
    values |= {f"seed of {key}": _text(value) for key, value in meta.seeds.items()}
    for key, value in meta.model.items():
        values[f"model {key}"] = _text(value)
    values |= {f"version of {key}": _text(value) for key, value in meta.versions.items()}
    values["machine"] = meta.machine or "–"
    values["private model"] = _text(meta.private_model)
    return values


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None or value == "" else str(value)


def _targets(lines: Sequence[Line]) -> bool:
    return all(line.run.meta.clients.get("targets") for line in lines)


def _percent(share: float) -> str:
    return PERCENT.text(share) if math.isfinite(share) else "–"
