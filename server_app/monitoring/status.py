"""What a run is doing right now: written by the round loop, read by the page and the metrics."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

PHASES = (
    "waiting", "broadcast", "train", "update", "evaluate", "checkpoint",
    "finished", "failed", "stopped",
)  # fmt: skip
"""What a run can be doing; the last three are ends."""
ENDS = frozenset(PHASES[-3:])
STATES = ("unready", "online", "training", "late", "rejected", "gone")
"""What a node can be; one that is unready is there and cannot take part, or not yet."""
_LISTS = frozenset(
    {"clients", "missing", "rejected", "evaluation", "evaluation_sources", "evaluation_missing"}
)
INCIDENTS_KEPT = 200
"""Replies missing or rejected that are kept with their reasons; older ones are only counted."""


class Status:
    """The state of one run, safe to use from several threads.

    Attributes
    ----------
    page: where it is shown; empty where nobody shows it.

    Writing never waits for a reader longer than it takes to copy a list of references: what was
    written for a round is never changed again.
    """

    def __init__(self) -> None:
        self.page = ""
        self._changed = threading.Condition()
        self._version = 0
        self._begins = 0
        self._clear({}, 0)

    def _clear(self, meta: Mapping[str, Any], rounds: int) -> None:
        self._meta = copy.deepcopy(dict(meta))
        self._rounds = rounds
        self._round = 0
        self._phase = "waiting"
        self._since = time.time()
        self._nodes: dict[int, dict[str, Any]] = {}
        self._lines: list[dict[str, Any]] = []
        self._incidents: deque[dict[str, Any]] = deque(maxlen=INCIDENTS_KEPT)
        self._totals = {
            "bytes_down": 0, "bytes_up": 0, "asked": 0, "replies": 0, "missing": 0, "rejected": 0,
            "rejected_evaluations": 0, "rejected_introductions": 0,
        }  # fmt: skip
        self._seconds: dict[str, float] = {}
        self._awaited: dict[str, Any] | None = None

    def begin(self, meta: Mapping[str, Any], rounds: int) -> None:
        """A run begins or goes on.

        Parameters
        ----------
        meta: what ``run.json`` holds.
        rounds: number of the last round.
        """
        with self._changed:
            self._clear(meta, rounds)
            self._begins += 1
            self._tell()

    def phase(self, round: int, name: str) -> None:
        """Round ``round`` is now in phase ``name``, one of ``PHASES``."""
        if name not in PHASES:
            raise ValueError(f"there is no phase {name!r}; there are {', '.join(PHASES)}")
        with self._changed:
            if (round, name) == (self._round, self._phase):
                return
            self._round, self._phase, self._since = round, name, time.time()
            self._awaited = None
            self._tell()

    def await_node(self, node: int | None, doing: str = "", until: float = 0.0) -> None:
        """The server waits for the reply of a node; for that of none in particular if it is None.

        Parameters
        ----------
        doing: what the node has done so far, such as ``has not replied``.
        until: Unix seconds at which the server goes on without it.
        """
        awaited = None if node is None else {"node": str(node), "doing": doing, "until": until}
        with self._changed:
            known = self._awaited
            if awaited and known and (known["node"], known["doing"]) == (str(node), doing):
                return
            if awaited != known:
                self._awaited = awaited
                self._tell()

    def node(
        self,
        node: int,
        state: str,
        *,
        role: str = "",
        clients: str = "",
        reason: str = "",
        seen: bool = False,
    ) -> None:
        """A node is now in ``state``, one of ``STATES``.

        Parameters
        ----------
        role, clients: what it told about itself; empty keeps what is known.
        reason: why it is late, rejected or gone; empty where there is nothing to explain.
        seen: it was heard of just now.
        """
        if state not in STATES:
            raise ValueError(f"there is no state {state!r}; there are {', '.join(STATES)}")
        with self._changed:
            entry = self._entry(node)
            entry["state"], entry["reason"] = state, reason
            entry["role"] = role or entry["role"]
            entry["clients"] = clients or entry["clients"]
            if seen:
                entry["last_seen"] = time.time()
            self._tell()

    def name(self, node: int, name: str, leaf: str = "") -> None:
        """A node has a name in the fleet's settings, or stands behind a leaf; empty if not."""
        with self._changed:
            self._entry(node).update(name=name, leaf=leaf)
            self._tell()

    def close(self, line: Mapping[str, Any]) -> None:
        """A round is over; ``line`` is what was appended to ``metrics.jsonl``.

        Of the counts that are kept, ``replies``, ``missing`` and ``rejected`` are about requests to
        train, and add up to ``asked``: who was not asked is an incident, but no lost reply.
        """
        short = copy.deepcopy({k: v for k, v in line.items() if k not in _LISTS})
        for name in ("evaluation", "evaluation_sources"):
            if line.get(name):
                short[name] = {k: v for k, v in line[name].items() if k != "clients"}
        lost = {kind: line.get(kind, []) for kind in ("missing", "rejected")}
        steps = Counter(entry.get("step", "training") for entry in lost["rejected"])
        unanswered = line.get("asked", 0) - line.get("replies", 0) - steps["training"]
        short |= {
            "missing": unanswered,
            "rejected": steps["training"],
            "rejected_evaluations": steps["evaluation"],
            "rejected_introductions": steps["introduction"],
        }
        unevaluated = [{"field": "evaluation", **e} for e in line.get("evaluation_missing", [])]
        lost["missing"] = [*lost["missing"], *unevaluated]
        with self._changed:
            self._lines.append(short)
            for name, seconds in line.get("seconds", {}).items():
                if math.isfinite(seconds):
                    self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            for name in self._totals:
                self._totals[name] += short.get(name) or 0
            for kind, entries in lost.items():
                for entry in entries:
                    self._incidents.append({"round": line["round"], "kind": kind, **entry})
                    self._entry(int(entry["node"]))[kind] += 1
            for part in line.get("clients", []):
                node = self._entry(int(part["node"]))
                node |= {key: part.get(key) for key in ("seconds", "loss", "without")}
                node["round"] = line["round"]
                node["replies"] += 1
            self._tell()

    def snapshot(self, skip: int = 0) -> dict[str, Any]:
        """Everything, as a copy that the reader may keep and change.

        Parameters
        ----------
        skip: lines of the record to leave out from its beginning, for a reader that has them.

        Returns
        -------
        ``version`` (grows with every change), ``begins`` (how often a run began here), ``meta``,
        ``rounds``, ``round``, ``phase``, ``since`` (Unix seconds at which the phase began),
        ``nodes`` (by id: name, leaf, state, role, clients, reason, last_seen, replies, missing,
        rejected, and of its last reply round, seconds, loss and what it did without), ``lines`` (of
        the record, without single clients; missing and rejected are counts), ``incidents`` (newest
        last: round, kind, node, step, field, reason), ``totals``, ``seconds`` (of all rounds, by
        phase) and ``awaited`` (the node whose reply the server waits for: node, doing, until).
        """
        with self._changed:
            parts = {
                "version": self._version,
                "begins": self._begins,
                "meta": self._meta,
                "rounds": self._rounds,
                "round": self._round,
                "phase": self._phase,
                "since": self._since,
                "nodes": {str(node): dict(entry) for node, entry in self._nodes.items()},
                "lines": self._lines[skip:],
                "incidents": list(self._incidents),
                "totals": dict(self._totals),
                "seconds": dict(self._seconds),
                "awaited": self._awaited,
            }
        return copy.deepcopy(parts)

    def wait(self, version: int, seconds: float) -> int:
        """Wait until the status is newer than ``version``; returns its version, new or not."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > version, seconds)
            return self._version

    def _entry(self, node: int) -> dict[str, Any]:
        return self._nodes.setdefault(
            node,
            {
                "state": "online", "role": "", "clients": "", "reason": "", "last_seen": None,
                "name": "", "leaf": "",
                "replies": 0, "missing": 0, "rejected": 0,
                "round": None, "seconds": None, "loss": None, "without": None,
            },
        )  # fmt: skip

    def _tell(self) -> None:
        self._version += 1
        self._changed.notify_all()
