"""The state of a run, as the round loop writes and others read it."""

from __future__ import annotations

import threading
import time

import pytest

from server_app.monitoring.status import INCIDENTS_KEPT, Status

LINE = {
    "round": 1,
    "seconds": {"train": 2.0, "update": 0.5},
    "bytes_down": 100,
    "bytes_up": 60,
    "asked": 3,
    "replies": 1,
    "missing": [{"node": "7", "reason": "no reply before the deadline"}],
    "rejected": [{"node": "8", "field": "increment", "reason": "not finite"}],
    "clients": [{"node": "6", "client": "0", "seconds": 1.5, "loss": 0.25, "examples": 12}],
    "train": {"loss": 0.25},
    "method": {"rho": 0.7},
    "evaluation": {"accuracy_after": 0.5, "clients": [{"node": "9", "client": "3"}]},
}


def test_a_new_status_waits() -> None:
    seen = Status().snapshot()
    assert (seen["phase"], seen["round"], seen["nodes"], seen["lines"]) == ("waiting", 0, {}, [])


def test_begin_forgets_what_was_before() -> None:
    status = Status()
    status.node(6, "online")
    status.close(LINE)
    status.begin({"run": "second"}, 30)
    seen = status.snapshot()
    assert seen["meta"] == {"run": "second"}
    assert seen["rounds"] == 30
    assert (seen["nodes"], seen["lines"], seen["totals"]["bytes_up"]) == ({}, [], 0)


def test_phases_keep_the_time_at_which_they_began() -> None:
    status = Status()
    status.phase(3, "train")
    first = status.snapshot()
    status.phase(3, "train")
    assert status.snapshot() == first
    time.sleep(0.01)
    status.phase(4, "train")
    later = status.snapshot()
    assert later["round"] == 4
    assert later["since"] > first["since"]


def test_unknown_phases_and_states_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no phase 'nap'"):
        Status().phase(1, "nap")
    with pytest.raises(ValueError, match="there is no state 'asleep'"):
        Status().node(1, "asleep")


def test_a_node_keeps_what_it_told_and_when_it_was_heard() -> None:
    status = Status()
    status.node(6, "online", role="source", clients="0", seen=True)
    heard = status.snapshot()["nodes"]["6"]["last_seen"]
    assert heard == pytest.approx(time.time(), abs=5)
    status.node(6, "gone", reason="no heartbeat")
    node = status.snapshot()["nodes"]["6"]
    assert (node["state"], node["reason"]) == ("gone", "no heartbeat")
    assert (node["role"], node["clients"], node["last_seen"]) == ("source", "0", heard)
    status.node(6, "online")
    assert status.snapshot()["nodes"]["6"]["reason"] == ""


def test_a_closed_round_is_counted_by_node_and_in_total() -> None:
    status = Status()
    for round in (1, 2):
        status.close({**LINE, "round": round})
    seen = status.snapshot()
    assert seen["totals"] == {
        "bytes_down": 200, "bytes_up": 120, "asked": 6, "replies": 2, "missing": 2, "rejected": 2,
        "rejected_evaluations": 0, "rejected_introductions": 0,
    }  # fmt: skip
    assert seen["seconds"] == {"train": 4.0, "update": 1.0}
    assert seen["nodes"]["6"] | {"last_seen": None} == {
        "state": "online", "role": "", "clients": "", "reason": "", "last_seen": None,
        "name": "", "leaf": "",
        "replies": 2, "missing": 0, "rejected": 0, "round": 2, "seconds": 1.5, "loss": 0.25,
        "without": None,
    }  # fmt: skip
    assert seen["nodes"]["7"]["missing"] == seen["nodes"]["8"]["rejected"] == 2
    assert seen["incidents"][-1] == {
        "round": 2, "kind": "rejected", "node": "8", "field": "increment", "reason": "not finite"
    }  # fmt: skip


def test_single_clients_are_not_kept() -> None:
    status = Status()
    status.close(LINE)
    [line] = status.snapshot()["lines"]
    assert "clients" not in line
    assert line["evaluation"] == {"accuracy_after": 0.5}
    assert (line["missing"], line["rejected"]) == (1, 1)
    assert LINE["evaluation"]["clients"], "the caller's line was changed"  # type: ignore[index]


def test_round_zero_has_neither_training_nor_evaluation() -> None:
    status = Status()
    status.close({"round": 0, "seconds": {"evaluate": 1.0}, "evaluation": None})
    assert status.snapshot()["totals"]["asked"] == 0


def test_a_node_that_did_not_judge_is_missing_but_was_not_asked_to_train() -> None:
    status = Status()
    silent = [{"node": "9", "reason": "no reply before the deadline"}]
    line = {**LINE, "replies": 3, "missing": [], "rejected": [], "evaluation_missing": silent}
    status.close(line)
    seen = status.snapshot()
    assert seen["totals"]["missing"] == 0
    assert seen["nodes"]["9"]["missing"] == 1
    [incident] = seen["incidents"]
    assert (incident["kind"], incident["field"]) == ("missing", "evaluation")
    assert "evaluation_missing" not in seen["lines"][0]


def test_what_became_of_requests_to_train_adds_up() -> None:
    status = Status()
    missing = [
        {"node": "7", "reason": "no reply within 600 s"},
        {"node": "5", "reason": "not asked: it is late with train of round 1"},
    ]
    rejected = [
        {"node": "8", "step": "training", "field": "loss", "reason": "is nan"},
        {"node": "9", "step": "evaluation", "field": "clients", "reason": "are [1]"},
        {"node": "4", "step": "introduction", "field": "role", "reason": "is admin"},
    ]
    status.close({**LINE, "missing": missing, "rejected": rejected})
    seen = status.snapshot()
    counts = {"asked": 3, "replies": 1, "missing": 1, "rejected": 1}
    counts |= {"rejected_evaluations": 1, "rejected_introductions": 1}
    assert seen["totals"].items() >= counts.items()
    assert seen["lines"][0].items() >= counts.items()
    kinds = [(entry["kind"], entry["node"]) for entry in seen["incidents"]]
    assert kinds == [("missing", n) for n in "75"] + [("rejected", n) for n in "894"]


def test_old_incidents_are_dropped_but_stay_counted() -> None:
    status = Status()
    for round in range(INCIDENTS_KEPT):
        status.close({**LINE, "round": round})
    seen = status.snapshot()
    assert len(seen["incidents"]) == INCIDENTS_KEPT
    assert seen["incidents"][-1]["round"] == INCIDENTS_KEPT - 1
    assert seen["totals"]["rejected"] == INCIDENTS_KEPT


def test_a_snapshot_is_the_readers_own() -> None:
    status = Status()
    status.begin({"settings": {"seed": 0}}, 2)
    status.close(LINE)
    seen = status.snapshot()
    seen["meta"]["settings"]["seed"] = 1
    seen["lines"][0]["train"]["loss"] = 9
    assert status.snapshot()["meta"]["settings"]["seed"] == 0
    assert status.snapshot()["lines"][0]["train"]["loss"] == 0.25


def test_a_reader_may_skip_the_lines_it_has() -> None:
    status = Status()
    for round in range(3):
        status.close({**LINE, "round": round})
    assert [line["round"] for line in status.snapshot(skip=2)["lines"]] == [2]
    assert status.snapshot(skip=3)["lines"] == []


def test_a_reader_waits_for_news() -> None:
    status = Status()
    version = status.snapshot()["version"]
    assert status.wait(version, 0.01) == version
    timer = threading.Timer(0.05, status.phase, (1, "train"))
    timer.start()
    assert status.wait(version, 5) > version
    timer.join()


def test_threads_may_write_at_once() -> None:
    status = Status()

    def write(node: int) -> None:
        for round in range(50):
            status.node(node, "training", seen=True)
            status.close({"round": round, "clients": [{"node": str(node)}], "bytes_up": 1})

    threads = [threading.Thread(target=write, args=(node,)) for node in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        status.snapshot()
    for thread in threads:
        thread.join()
    seen = status.snapshot()
    assert seen["totals"]["bytes_up"] == 200
    assert {node["replies"] for node in seen["nodes"].values()} == {50}
