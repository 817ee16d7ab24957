"""The SuperLink's entry point and what it adapts."""

import logging
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from flwr.supercore import sql_mixin
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from common.errors import SettingsError
from deploy.adaptation import Adaptation, adapt, fingerprint
from deploy.superlink import ADAPTATIONS, WITHOUT, chosen


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
def adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("create_engine", "SQLITE_PRAGMAS"):  # put back afterwards
        monkeypatch.setattr(sql_mixin, name, getattr(sql_mixin, name))
    (database,) = (adaptation for adaptation in ADAPTATIONS if adaptation.name == "database")
    database.apply()


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
