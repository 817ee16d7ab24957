"""The sections of the page of one run."""

import math
from collections import defaultdict
from dataclasses import replace

from server_app.report import scores, verdict, words
from server_app.report.charts import BASE, Band, Chart, Series, paired_chart
from server_app.report.costs import phases, traffic
from server_app.report.replies import replies, some
from server_app.report.scales import PERCENT, fixed
from server_app.report.sections import (
    Column,
    Line,
    Section,
    Table,
    agreement,
    evaluated,
    evaluation_series,
    events,
    losses,
    other_metrics,
)
from server_app.runs.record import Evaluation, Run

_SHARES = (0.0, 1.0)


def sections_of(run: Run) -> list[Section]:
    """All sections for which the record has data, in order."""
    line = [Line(run, run.meta.run, "0")]
    found = [
        accuracy(run),
        accuracy_of_sources(run),
        _happened(run),
        _clients(run),
        losses(line),
        agreement(line),
        other_metrics(line),
        traffic(line),
        phases(run),
        replies(run),
        _widths(run),
    ]
    return [section for section in found if section is not None]


def facts_of(run: Run) -> list[tuple[str, str, str]]:
    """The figures below the headline: name, value, remark."""
    final, best = scores.last(run), scores.best(run)
    facts = []
    if final is not None and math.isfinite(final.after):
        which = f"round {final.round}, the last" if final.round else "untrained"
        spread = f", ± {fixed(100 * final.std, 1)} from client to client"
        remark = which + (spread if math.isfinite(final.std) else "")
        if words.adapts(run):
            facts.append(("After adaptation", PERCENT.text(final.after), remark))
            facts.append(("Before", PERCENT.text(final.before), "the model as it is sent"))
        else:
            facts.append(("Accuracy", PERCENT.text(final.after), remark))
    start = verdict.untrained(run)
    if start is not None and final is not None and final.round and math.isfinite(start.after):
        facts.append(("Untrained", PERCENT.text(start.after), "round 0, as far adapted"))
    if best is not None and final is not None and best.round != final.round:
        facts.append(("Best", PERCENT.text(best.after), f"in round {best.round}"))
    if lost := scores.lost(run):
        kinds = ", ".join(f"{number} {kind}" for kind, number in lost.items())
        facts.append(("Replies lost", str(sum(lost.values())), kinds))
    down, up = scores.traffic(run)
    if down or up:
        facts.append(("Traffic", words.size(down + up), f"{words.size(up)} of it up"))
    if total := scores.seconds(run):
        done = max(run.rounds[-1].round, 1)
        facts.append(("Time", words.duration(total), f"{words.duration(total / done)} a round"))
    return facts


def accuracy(run: Run) -> Section | None:
    """Accuracy over rounds, before and after adaptation, with its spread where it is known."""
    where = "clients that never took part" if run.meta.clients.get("targets") else "clients"
    return _accuracy(run, "accuracy", f"Accuracy on {where}", _mean_of(run))


def accuracy_of_sources(run: Run) -> Section | None:
    """The same on the clients that train, where they evaluate as well as others."""
    if not any(r.evaluation_sources for r in run.rounds):
        return None
    if not any(r.evaluation for r in run.rounds):
        return None  # then the section before has it
    rounds = [r.model_copy(update={"evaluation": r.evaluation_sources}) for r in run.rounds]
    title, mean = "Accuracy on clients that train", "Mean over the clients of a round"
    return _accuracy(replace(run, rounds=rounds), "sources", title, mean)


def _accuracy(run: Run, key: str, title: str, mean: str) -> Section | None:
    pairs = evaluated(run)
    if not any(math.isfinite(e.accuracy_after) for _, e in pairs):
        return None
    line = Line(run, "after", "0")
    series = [evaluation_series(line, lambda e: e.accuracy_after)]
    text = []
    if words.adapts(run):
        before = evaluation_series(Line(run, "before", BASE), lambda e: e.accuracy_before)
        series.append(before)
        steps = run.meta.settings.get("evaluation.steps")
        how = (
            f"{words.count(steps, 'gradient step')} on" if isinstance(steps, int) else "training on"
        )
        text.append(f"After: {how} a client's own few labelled images. Before: none.")
    else:
        series = [Series("accuracy", series[0].x, series[0].y, "0")]
    samples = [[c.accuracy_after for c in e.clients] for _, e in pairs]
    low, high = scores.spread(samples, 10, 90)
    bands = []
    if any(map(math.isfinite, low)):
        bands = [Band("8 of 10 clients", series[0].x, low, high, "0")]
        text.append("The band holds 8 of 10 clients after adaptation.")
    chart = Chart(
        "lines", mean, series, PERCENT, bands, events=events(run), height=350, limits=_SHARES
    )
    return Section(key, title, text, [chart])


def _clients(run: Run) -> Section | None:
    """The last and the best evaluation, client by client."""
    usable = [pair for pair in run.evaluated if pair[1].clients]
    if not usable:
        return None
    final, best = usable[-1], scores.best(run)
    shown = {final[0].round: ("last evaluation", final)}
    if best is not None:
        top = next((p for p in usable if p[0].round == best.round), final)
        if top[0].round == final[0].round:
            shown = {final[0].round: ("last and best evaluation", final)}
        else:
            shown[top[0].round] = ("best evaluation", top)
    charts = [
        _pairs(f"Round {number}, {what}", pair[1])
        for number, (what, pair) in sorted(shown.items())
        if any(math.isfinite(c.accuracy_after) for c in pair[1].clients)
    ]
    if not charts:
        return None
    text = ["A column is a client: ring before adaptation, dot after. Sorted by accuracy after."]
    text += _extremes(final[1])
    return Section("clients", "Client by client", text, charts)


def _happened(run: Run) -> Section | None:
    """What a reader of the curves must know of, with its rounds."""
    rounds = defaultdict[str, list[int]](list)
    for event in events(run):
        rounds[event.kind].append(event.round)
    rounds["lines of the record damaged or lost"] = run.lost
    rows = [
        [kind.capitalize(), str(len(found)), some(list(map(str, found)))]
        for kind, found in rounds.items()
        if found
    ]
    columns = [Column("What"), Column("Rounds", True), Column("Which")]
    return Section("events", "What happened", tables=[Table(columns, rows)]) if rows else None


def _widths(run: Run) -> Section | None:
    """What share of the network the clients of the last round with replies have trained."""
    rounds = [r for r in run.rounds if any(math.isfinite(c.width) for c in r.clients)]
    if not rounds:
        return None
    columns = [Column("client"), Column("width", True), Column("at most", True), Column("why")]
    rows = [
        [
            run.meta.nodes.get(c.node, f"client {c.client}"), f"{c.width:g}", f"{c.widest:g}",
            c.why,
        ]
        for c in rounds[-1].clients
    ]  # fmt: skip
    fold = f"{words.count(len(rows), 'client')} of round {rounds[-1].round}"
    text = ["Shares of the network that clients have trained, and the largest that each can hold."]
    return Section("widths", "Widths", text, tables=[Table(columns, rows, fold=fold)])


def _mean_of(run: Run) -> str:
    final = scores.last(run)
    return f"Mean over {words.clients(run, final)}" if final else "Mean over clients"


def _pairs(title: str, evaluation: Evaluation) -> Chart:
    clients = evaluation.clients
    before, after = [c.accuracy_before for c in clients], [c.accuracy_after for c in clients]
    return paired_chart(title, [f"client {c.client}" for c in clients], before, after)


def _extremes(evaluation: Evaluation) -> list[str]:
    usable = [c for c in evaluation.clients if math.isfinite(c.accuracy_after)]
    if len(usable) < 2:
        return []
    worst = min(usable, key=lambda c: c.accuracy_after)
    said = [f"The lowest is client {worst.client} with {PERCENT.text(worst.accuracy_after)}."]
    lost = sum(c.accuracy_after < c.accuracy_before for c in usable)
    if lost:
        verb = "is" if lost == 1 else "are"
        said.append(f"{words.count(lost, 'client')} {verb} worse off for it (orange).")
    return said
