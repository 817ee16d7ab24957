"""What the live page says about a run: the status, put into words and tables."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from server_app.monitoring.status import ENDS, STATES
from server_app.report import scores, words
from server_app.report.scales import NBSP, PERCENT
from server_app.runs.record import Run

STEPS = {
    "broadcast": "send",
    "train": "train",
    "update": "update",
    "evaluate": "evaluate",
    "checkpoint": "save",
}
_DOING = {
    "waiting": "The server waits until enough nodes have introduced themselves.",
    "broadcast": "The model goes out to the nodes.",
    "train": "The nodes train.",
    "update": "The server updates the model.",
    "evaluate": "Clients evaluate the model.",
    "checkpoint": "The server saves the checkpoint.",
}
_LOST = ("missing", "rejected", "rejected_evaluations", "rejected_introductions")
_TROUBLED = frozenset({"unready", "late", "rejected", "gone"})
MOST_NODES = 40  # nodes that are shown at once; the others are folded away
MOST_LOSSES = 10  # replies missing or rejected that are shown at once
_RECENT = 10  # rounds whose mean time foretells what is left


@dataclass(frozen=True)
class Head:
    """The top of the page."""

    title: str
    kicker: list[str]
    headline: str
    lede: list[str]  # sentences; while a run goes on, what it does
    since: float | None  # Unix seconds at which that began
    rest: str  # what is left, in words
    progress: float | None  # percent of the rounds done
    steps: list[tuple[str, str]]  # name, state: done, now, or empty
    facts: list[tuple[str, str, str]]  # name, value, remark


@dataclass(frozen=True)
class NodeRow:
    """A node in the table."""

    name: str
    clients: str  # where the name does not tell them
    leaf: str  # behind which it stands
    node: str
    state: str
    reason: str
    last_seen: float | None  # Unix seconds
    seconds: str
    loss: str
    replies: int
    missing: int
    rejected: int


@dataclass(frozen=True)
class Nodes:
    """All nodes: counts in words, and rows in the order of their clients."""

    text: list[str]
    shown: list[NodeRow]
    folded: list[NodeRow]


@dataclass(frozen=True)
class Loss:
    """Replies of a node that did not reach the model for the same reason."""

    round: int  # the last one
    times: int
    node: str
    kind: str
    field: str
    reason: str


def head_of(seen: dict[str, Any], run: Run) -> Head:
    """The top of the page: where the run stands."""
    meta, ended = run.meta, seen["phase"] in ENDS
    round, rounds = seen["round"], seen["rounds"]
    done = run.rounds[-1].round if run.rounds else 0
    parts = [meta.run, meta.method, meta.settings.get("data.name"), meta.model.get("name")]
    parts += ["with private model"] if meta.private_model else []
    if ended:
        headline, title = words.headline(run), f"{seen['phase']} · {meta.run}"
    elif round:
        headline, title = f"Round {round} of {rounds}", f"{round}/{rounds} · {meta.run}"
    else:
        headline = "Waiting for nodes" if seen["phase"] == "waiting" else "Before the first round"
        title = f"{seen['phase']} · {meta.run}"
    return Head(
        title=f"{title} · AugFlower",
        kicker=[str(part) for part in parts if part],
        headline=headline,
        lede=words.sentences(run) if ended else [_DOING[seen["phase"]], *_awaited(seen)],
        since=None if ended else seen["since"],
        rest="" if ended else _rest(run, rounds - done),
        progress=None if ended or not rounds else 100 * min(done / rounds, 1.0),
        steps=[] if ended or seen["phase"] == "waiting" else _steps(seen["phase"]),
        facts=_facts(seen, run),
    )


def nodes_of(seen: dict[str, Any]) -> Nodes:
    """The nodes, those that train first, in the order of their clients."""
    entries = sorted(seen["nodes"].items(), key=_place)
    rows = [_row(node, entry) for node, entry in entries]
    counts = Counter(row.state for row in rows)
    text = []
    if rows:
        states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        text.append(f"{words.count(len(rows), 'node')}: {states}.")
    totals = seen["totals"]
    if totals["asked"] and not totals["missing"] + totals["rejected"]:
        text.append(
            f"{words.count(totals['asked'], 'request')} to train so far, all answered and admitted."
        )
    if len(rows) <= MOST_NODES:
        return Nodes(text, rows, [])
    shown = [row for row in rows if row.state in _TROUBLED][:MOST_NODES]
    return Nodes(text, shown, rows)


def losses_of(seen: dict[str, Any]) -> list[Loss]:
    """Replies missing or rejected, the newest first; what happened again stands there once."""
    rounds: dict[tuple[str, str, str, str], list[int]] = {}
    for entry in reversed(seen["incidents"]):
        known = seen["nodes"].get(entry["node"], {})
        key = (
            known.get("name") or entry["node"],
            entry["kind"],
            _field(entry),
            scores.general(entry["reason"]),
        )
        rounds.setdefault(key, []).append(entry["round"])
    return [Loss(found[0], len(found), *key) for key, found in rounds.items()]


def ranges(clients: str) -> str:
    """Client numbers in few letters: ``0,1,2,5`` becomes ``0–2, 5``."""
    parts = [part.strip() for part in clients.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        return ", ".join(parts)
    runs: list[list[int]] = []
    for number in sorted(map(int, parts)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def elapsed(seconds: float) -> str:
    """Whole seconds that have passed, as the page's script goes on counting them."""
    minutes, rest = divmod(max(0, math.floor(seconds)), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s" if minutes else f"{rest}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def _awaited(seen: dict[str, Any]) -> list[str]:
    """Whom the server waits for, and until when."""
    awaited = seen["awaited"]
    if not awaited:
        return []
    entry = seen["nodes"].get(awaited["node"])
    row = _row(awaited["node"], entry) if entry else None
    name = row.name if row and row.name != "Node" else f"Node {awaited['node']}"
    until = time.strftime("%H:%M:%S", time.localtime(awaited["until"]))
    return [f"{name} {awaited['doing']}; the server waits until {until} at the latest."]


def _steps(phase: str) -> list[tuple[str, str]]:
    order = list(STEPS)
    at = order.index(phase) if phase in STEPS else -1
    return [
        (STEPS[name], "done" if i < at else "now" if i == at else "")
        for i, name in enumerate(order)
    ]


def _rest(run: Run, left: int) -> str:
    """How long the rounds that are left will take, by the last ones."""
    last = [r for r in run.rounds[-_RECENT:] if r.round]
    busy = [{k: v for k, v in r.seconds.items() if k != "waiting"} for r in last]
    times = [sum(scores.finite(seconds.values())) for seconds in busy]
    if not times or left <= 0:
        return ""
    return f"About {words.duration(fmean(times) * left)} to go."


def _facts(seen: dict[str, Any], run: Run) -> list[tuple[str, str, str]]:
    facts, totals = [], seen["totals"]
    final = scores.last(run)
    if final is not None and math.isfinite(final.after):
        if words.adapts(run):
            before = f"{PERCENT.text(final.before)} before"
            facts.append(("After adaptation", PERCENT.text(final.after), before))
        else:
            facts.append(("Accuracy", PERCENT.text(final.after), f"round {final.round}"))
    trained = next((r for r in reversed(run.rounds) if "loss" in r.train), None)
    if trained is not None:
        loss = words.loss(trained.train["loss"])
        facts.append(("Training loss", loss, f"round {trained.round}"))
    states = Counter(node["state"] for node in seen["nodes"].values())
    wanted = run.meta.settings.get("round.nodes", 0)
    total = max(states.total(), run.meta.devices, wanted if isinstance(wanted, int) else 0)
    if total:
        here = states["online"] + states["training"]
        troubled = [f"{states[s]} {s}" for s in STATES if s in _TROUBLED and states[s]]
        troubled += [f"{total - states.total()} absent"] if total > states.total() else []
        well = "one is awaited" if seen["awaited"] else "all well"
        facts.append(("Nodes", f"{here} of {total}", ", ".join(troubled) or well))
    lost = [f"{totals[kind]} {kind}" for kind in ("missing", "rejected") if totals[kind]]
    for kind in ("evaluation", "introduction"):
        if number := totals[f"rejected_{kind}s"]:
            lost.append(words.count(number, f"rejected {kind}"))
    if lost:
        facts.append(("Replies lost", f"{sum(totals[kind] for kind in _LOST)}", ", ".join(lost)))
    down, up = totals["bytes_down"], totals["bytes_up"]
    if down or up:
        facts.append(("Traffic", words.size(down + up), f"{words.size(up)} of it up"))
    if total := sum(seen["seconds"].values()):
        each = words.duration(total / max(run.rounds[-1].round, 1))
        facts.append(("Time", words.duration(total), f"{each} a round"))
    return facts


def _field(entry: dict[str, Any]) -> str:
    """The field that was wrong; of evaluations and introductions with what it is a field of."""
    field, step = entry.get("field", ""), entry.get("step", "training")
    return str(field if step == "training" else f"{step}.{field}")


def _place(item: tuple[str, dict[str, Any]]) -> tuple[bool, int, int, str]:
    node, entry = item
    first = entry["clients"].replace("-", ",").partition(",")[0].strip()
    number = int(first) if first.isdecimal() else -1
    return entry["role"] == "target", number, len(node), node


def _row(node: str, entry: dict[str, Any]) -> NodeRow:
    clients = ranges(entry["clients"])
    plural = "s" if any(sign in clients for sign in ",-–") else ""
    name = f"Client{plural} {clients}" if clients else (entry["role"] or "Node").capitalize()
    seconds, loss = entry["seconds"], entry["loss"]
    return NodeRow(
        name=entry["name"] or name,
        clients=name.lower() if entry["name"] and clients else "",
        leaf=entry["leaf"],
        node=node,
        state=entry["state"],
        reason=entry["reason"] or entry["without"] or "",
        last_seen=entry["last_seen"],
        seconds="–" if seconds is None else words.duration(seconds),
        loss="–" if loss is None else words.loss(loss),
        replies=entry["replies"],
        missing=entry["missing"],
        rejected=entry["rejected"],
    )
