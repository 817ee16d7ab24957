"""The section on replies: what became of requests, why some were lost, and node by node."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from server_app.report import scores, words
from server_app.report.charts import Chart, Series
from server_app.report.scales import Unit
from server_app.report.sections import Column, Section, Table, drawn
from server_app.runs.record import Round, Run


def replies(run: Run) -> Section | None:
    """What became of the requests to train, and who failed to evaluate."""
    asked = sum(r.asked for r in run.rounds)
    if not asked:
        return None
    admitted = sum(r.replies for r in run.rounds)
    rejected = sum(r.refused for r in run.rounds)
    found = scores.incidents(run)
    requests = words.count(asked, "request")
    if not found:
        said = f"All {requests} to train were answered and admitted."
        return Section("replies", "Replies", [said], [], _devices(run))
    text = [f"Of {requests} to train, {admitted} were answered and admitted."]
    if rejected:
        noun = "reply" if rejected == 1 else "replies"
        text.append(f"{rejected} {noun} did not pass the checks.")
    text.append("Nothing of what is listed here touched the model.")
    rounds = [r for r in drawn(run) if r.asked]
    x = [float(r.round) for r in rounds]
    parts = [
        Series("missing", x, [float(len(r.missing)) for r in rounds], "1"),
        Series("rejected", x, [float(r.refused) for r in rounds], "3"),
    ]
    lost = any(value for part in parts for value in part.y)
    heads, unit = [str(r.round) for r in rounds], Unit("", 1, 0)
    chart = Chart("bars", "Replies lost each round", parts, unit, heads=heads, height=150)
    charts = [chart] if lost else []
    columns = [
        Column("What"),
        Column("Reason"),
        Column("Times", True),
        Column("Nodes"),
        Column("Rounds"),
    ]
    rows = [
        [i.kind, i.reason, str(i.count), some([run.name(node) for node in i.nodes]), span(i.rounds)]
        for i in found
    ]
    return Section("replies", "Replies", text, charts, [Table(columns, rows), *_devices(run)])


def _devices(run: Run) -> list[Table]:
    """A line for each node that was asked to train."""
    answered: dict[str, list[tuple[Round, Any]]] = defaultdict(list)
    lost: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for record in run.rounds:
        for part in record.clients:
            answered[part.node].append((record, part))
        for missing in record.missing:
            lost[missing.node][0] += 1
        for rejected in record.rejected:
            lost[rejected.node][1] += 1
    nodes = sorted({*answered, *lost}, key=lambda node: (len(node), node))
    names = [
        "Node",
        "Clients",
        "Answers",
        "Missing",
        "Rejected",
        "Mean time",
        "Longest",
        "Last answer",
        "Last loss",
    ]
    columns = [Column(name, i > 1) for i, name in enumerate(names)]
    lacking = any(part.without for record in run.rounds for part in record.clients)
    if lacking:
        columns.append(Column("Without"))
    rows = []
    for node in nodes:
        parts = [part for _, part in answered[node]]
        seconds = scores.finite(part.seconds for part in parts)
        clients = list(dict.fromkeys(c for part in parts for c in part.client.split(",")))
        rows.append(
            [
                run.name(node),
                some(clients),
                str(len({record.round for record, _ in answered[node]})),
                *map(str, lost[node]),
                words.duration(sum(seconds) / len(seconds)) if seconds else "–",
                words.duration(max(seconds)) if seconds else "–",
                f"round {answered[node][-1][0].round}" if parts else "–",
                words.loss(parts[-1].loss) if parts else "–",
                *([some(_lacks(parts))] if lacking else []),
            ]
        )
    return [Table(columns, rows, fold=f"Node by node ({len(nodes)})")] if nodes else []


def _lacks(parts: Sequence[Any]) -> list[str]:
    """What a node did without, and in how many of its answers."""
    counts = Counter(part.without for part in parts if part.without)
    return [f"{reason} ({words.count(times, 'round')})" for reason, times in counts.items()]


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def span(rounds: tuple[int, int]) -> str:
    """``3`` or ``3 to 40``."""
    return str(rounds[0]) if rounds[0] == rounds[1] else f"{rounds[0]} to {rounds[1]}"
