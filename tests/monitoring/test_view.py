"""What the page says about a run, in words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from server_app.monitoring import view
from server_app.report.scales import NBSP
from server_app.runs.record import Meta, Round, Run
from tests.monitoring.made import begun, close, line


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        ("", ""),
        ("3", "3"),
        ("6,7,8,9", "6–9"),
        ("9, 1,2,5", "1–2, 5, 9"),
        ("6-23", "6-23"),
        ("all", "all"),
    ],
)
def test_ranges_of_clients(clients: str, said: str) -> None:
    assert view.ranges(clients) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0 s"), (0.9, "0 s"), (59.9, "59 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")],
)
def test_elapsed_time_counts_whole_seconds(seconds: float, said: str) -> None:
    assert view.elapsed(seconds).replace(NBSP, " ") == said


def test_nodes_stand_in_the_order_of_their_clients_and_targets_last() -> None:
    status = begun()
    status.node(9, "online", role="source", clients="10")
    status.node(10, "online", role="source", clients="2")
    rows = view.nodes_of(status.snapshot()).shown
    assert [row.name for row in rows] == [
        "Client 0", "Client 1", "Client 2", "Client 10", "Clients 2–5"
    ]  # fmt: skip


def test_nodes_are_counted_by_state() -> None:
    status = begun()
    close(status, 1, 2)
    seen = view.nodes_of(status.snapshot())
    assert seen.text == [f"3{NBSP}nodes: 2 online, 1 rejected."]
    rejected = next(row for row in seen.shown if row.node == "12")
    assert (rejected.state, rejected.rejected, rejected.replies) == ("rejected", 1, 0)
    assert "not finite" in rejected.reason


def test_of_many_nodes_only_those_in_trouble_stay_in_sight() -> None:
    status = begun()
    for number in range(20, 20 + view.MOST_NODES):
        status.node(number, "online", clients=str(number))
    status.node(30, "late", reason="no reply before the deadline")
    seen = view.nodes_of(status.snapshot())
    assert [row.node for row in seen.shown] == ["30"]
    assert len(seen.folded) == view.MOST_NODES + 3


def test_lost_replies_come_newest_first_and_once_for_each_reason() -> None:
    status = begun()
    close(status, 2)
    for round in (3, 4, 5):
        status.close({"round": round, "missing": [{"node": "11", "reason": "no reply"}]})
    lost = view.losses_of(status.snapshot())
    assert [(entry.round, entry.times, entry.kind, entry.field) for entry in lost] == [
        (5, 3, "missing", ""), (2, 1, "rejected", "increment")
    ]  # fmt: skip


def test_the_page_says_who_is_awaited_and_until_when() -> None:
    status = begun()
    status.phase(1, "train")
    until = time.mktime((2026, 11, 21, 14, 5, 9, 0, 0, -1))
    status.await_node(12, "has begun its reply and not completed it", until)
    seen = status.snapshot()
    head = view.head_of(seen, Run(Path(), Meta.model_validate(seen["meta"]), []))
    assert head.lede[-1] == (
        "Client 1 has begun its reply and not completed it; the server waits until 14:05:09 at the "
        "latest."
    )
    assert ("Nodes", "3 of 3", "one is awaited") in head.facts
    status.await_node(None)
    seen = status.snapshot()
    head = view.head_of(seen, Run(Path(), Meta.model_validate(seen["meta"]), []))
    assert head.lede == ["The nodes train."]
    assert ("Nodes", "3 of 3", "all well") in head.facts


def test_rejected_introductions_are_lost_replies_of_their_own() -> None:
    status = begun()
    entry = {"node": "9", "step": "introduction", "field": "support", "reason": "is 9 images"}
    status.close(line(1) | {"rejected": [entry]})
    seen = status.snapshot()
    [lost] = view.losses_of(seen)
    assert (lost.kind, lost.field) == ("rejected", "introduction.support")
    head = view.head_of(seen, Run(Path(), Meta.model_validate(seen["meta"]), [Round(round=1)]))
    assert ("Replies lost", "1", f"1{NBSP}rejected introduction") in head.facts
