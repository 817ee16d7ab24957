"""The SuperLink's entry point and what it adapts."""

import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore import sql_mixin
from flwr.supercore.corestate.sql_corestate import SqlCoreState
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.superlink.federation import NoOpFederationManager

from common.errors import SettingsError
from deploy.adaptation import Adaptation, adapt, fingerprint
from deploy.superlink import ADAPTATIONS, WITHOUT, chosen
from deploy.superlink_adaptations.database import EVERY, Leisure, Memo
from deploy.superlink_adaptations.messages import WHOLE


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=lambda adaptation: adaptation.name)
def test_flower_is_the_one_that_the_adaptation_was_written_for(adaptation: Adaptation):
    # Fails when Flower's source changes. Read the functions again before renewing fingerprints.
    assert adaptation.differences() == []
    assert adaptation.functions().keys() == adaptation.fingerprints.keys()


def test_one_setting_leaves_adaptations_out():
    assert chosen({}) == list(ADAPTATIONS)
    assert chosen({WITHOUT: "all"}) == []
    rest = chosen({WITHOUT: ADAPTATIONS[0].name})
    assert rest == list(ADAPTATIONS[1:])
    known = ", ".join(sorted([*(adaptation.name for adaptation in ADAPTATIONS), "all"]))
    with pytest.raises(SettingsError, match=f"databse.*there are {known}"):
        chosen({WITHOUT: "databse"})


def test_what_flower_changed_is_left_alone_and_said(caplog: pytest.LogCaptureFixture):
    made: list[str] = []

    def adaptation(name: str, known: str) -> Adaptation:
        return Adaptation(
            name, "it is slow", {"chosen": known}, lambda: {"chosen": chosen},
            lambda: made.append(name),
        )  # fmt: skip

    with caplog.at_level(logging.WARNING):
        adapt([adaptation("stale", "0"), adaptation("fresh", fingerprint(chosen))])
    assert made == ["fresh"]
    assert "chosen" in caplog.text
    assert "'stale', it is slow" in caplog.text


@pytest.fixture
def adapted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    interval = sys.getswitchinterval()
    for place in (sql_mixin, SqlCoreState, SqlLinkState, SqlObjectStore):  # put back afterwards
        for name in vars(place).copy():
            if not name.startswith("__") and name != "_abc_impl":
                monkeypatch.setattr(place, name, vars(place)[name])
    for adaptation in ADAPTATIONS:
        if adaptation.name in ("database", "messages", "objects"):
            adaptation.apply()
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("adapted")
def test_a_writer_waits_for_a_slow_one_as_long_as_it_takes(tmp_path: Path):
    store = SqlObjectStore(str(tmp_path / "state.db"))
    store.initialize()
    wrote: list[float] = []

    def write() -> None:
        store.query("INSERT INTO objects (object_id, content, is_available, ref_count) "
                    "VALUES (:id, '', 0, 0)", {"id": str(threading.get_ident())})  # fmt: skip
        wrote.append(time.monotonic())

    others = [threading.Thread(target=write) for _ in range(4)]
    with store.session():
        write()
        for other in others:
            other.start()
        time.sleep(5.5)  # Flower's own writers give up after 5 s
        assert len(wrote) == 1
        released = time.monotonic()
    for other in others:
        other.join()
    assert len(wrote) == 5
    assert max(wrote) - released < 0.5


@pytest.mark.usefixtures("adapted")
def test_readers_do_not_wait_and_a_failed_write_leaves_its_turn(tmp_path: Path):
    store = SqlObjectStore(str(tmp_path / "state.db"))
    store.initialize()
    insert = (
        "INSERT INTO objects (object_id, content, is_available, ref_count) VALUES (:id, '', 0, 0)"
    )
    store.query(insert, {"id": "a"})
    with pytest.raises(Exception, match="UNIQUE"):
        store.query(insert, {"id": "a"})
    found: list[object] = []
    with store.session():
        store.query(insert, {"id": "b"})
        reader = threading.Thread(
            target=lambda: found.extend(store.query("SELECT object_id FROM objects"))
        )
        reader.start()
        reader.join(5)
        assert found == [{"object_id": "a"}]
    with sqlite3.connect(tmp_path / "state.db") as database:
        assert database.execute("SELECT count(*) FROM objects").fetchone() == (2,)


def link_state(folder: Path) -> SqlLinkState:
    state = SqlLinkState(str(folder / "link.db"), NoOpFederationManager(), InMemoryObjectStore())
    state.initialize()
    return state


@pytest.mark.usefixtures("adapted")
def test_an_empty_look_for_messages_does_not_wait_for_writers(tmp_path: Path):
    state = link_state(tmp_path)
    with sqlite3.connect(tmp_path / "link.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        assert state.get_message_ins(node_id=7, limit=1) == []
        assert time.monotonic() - begun < 1
        other.execute("ROLLBACK")


@pytest.mark.usefixtures("adapted")
def test_a_message_is_found_when_its_parts_are_there(tmp_path: Path):
    path = str(tmp_path / "link.db")
    store = SqlObjectStore(path)
    store.initialize()
    state = SqlLinkState(path, NoOpFederationManager(), store)
    state.initialize()

    def execute(statement: str, *values: object) -> None:
        # Not by Flower, which would have the message's run and sender there too.
        with sqlite3.connect(path) as database:
            database.execute(statement, values)

    def put(name: str, age: float) -> None:
        execute(
            "INSERT INTO message_ins (message_id, run_id, dst_node_id, delivered_at, created_at, "
            "ttl) VALUES (?, 1, 7, '', ?, 1000)",
            name, time.time() - age,
        )  # fmt: skip
        for part, there in ((name, 1), (f"{name} part", 0)):
            execute(
                "INSERT INTO objects (object_id, content, is_available, ref_count) "
                "VALUES (?, '', ?, 0)",
                part, there,
            )  # fmt: skip
        execute("INSERT INTO object_children VALUES (?, ?)", name, f"{name} part")

    def claimed() -> list[str]:
        return [row["message_id"] for row in state._claim_message_ins_rows(7, 1)]

    put("young", age=1)
    assert claimed() == []
    execute("UPDATE objects SET is_available = 1 WHERE object_id = 'young part'")
    assert claimed() == ["young"]
    put("old", age=WHOLE + 1)
    assert claimed() == ["old"]  # and Flower tells that its parts will not come
    assert claimed() == []


def test_what_has_no_haste_is_done_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    written: list[tuple[int, int, int]] = []
    expired: list[object] = []

    def store_traffic(self: object, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        written.append((run_id, bytes_sent, bytes_recv))

    monkeypatch.setattr(SqlLinkState, "store_traffic", store_traffic)
    monkeypatch.setattr(SqlCoreState, "_cleanup_expired_task_tokens", expired.append)
    request.getfixturevalue("adapted")
    state = link_state(tmp_path)
    for _ in range(100):
        state.store_traffic(5, bytes_sent=3, bytes_recv=2)
        state.get_run_status({5})
    assert len(written) <= 2
    assert len(expired) <= 2
    time.sleep(EVERY)
    state.get_run_info(run_ids=[5])
    state.get_run_status({5})
    assert [sum(column) for column in zip(*written, strict=True)][1:] == [300, 200]
    assert 2 <= len(expired) <= 3


@pytest.mark.usefixtures("adapted")
def test_a_key_that_was_deleted_is_not_remembered(tmp_path: Path):
    state = link_state(tmp_path)
    node = state.create_node("owner", "account", b"key", 30)
    assert state.get_node_id_by_public_key(b"other") is None
    assert state.get_node_id_by_public_key(b"key") == node
    assert state.get_node_id_by_public_key(b"key") == node
    state.delete_node("owner", node)
    assert state.get_node_id_by_public_key(b"key") is None
    other = state.create_node("owner", "account", b"other", 30)
    assert state.get_node_id_by_public_key(b"other") == other


def test_an_answer_from_before_a_write_is_not_kept():
    memo, answers = Memo[bool](lambda found: found), [True, False, True]

    def slow() -> bool:
        memo.forget()  # a task ends while it is looked at
        return answers.pop(0)

    assert memo.ask(7, slow) is True
    assert memo.ask(7, slow) is False
    assert memo.ask(7, lambda: True) is True
    assert memo.ask(7, lambda: False) is True, "nothing was written"
    memo.forget()
    assert memo.ask(7, lambda: False) is False


def test_leisure_tells_one_of_many_threads():
    now = [0.0]
    leisure, told = Leisure(1.0, lambda: now[0]), []

    def ask() -> None:
        told.append(leisure.due())

    for moment in (0.0, 0.9, 1.0):
        now[0] = moment
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(told) == 2
