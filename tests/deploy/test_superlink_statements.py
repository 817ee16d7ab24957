"""Statements that are written out leave the tables that Flower's own leave, and answer the same."""

import hashlib
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore import sql_mixin
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.corestate.sql_corestate import SqlCoreState
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from deploy.superlink import ADAPTATIONS

TABLES = (
    "SELECT object_id, content, is_available, ref_count FROM objects",
    "SELECT parent_id, child_id FROM object_children",
    "SELECT object_id FROM run_objects",
    "SELECT lock_id, lock_value FROM objectstore_locks",
    "SELECT pending_count, typeof(expires_at), length(expires_at), expires_at > '2026' "
    "FROM object_push_sessions",
    "SELECT root_object_id FROM object_push_session_roots",
    "SELECT object_id FROM object_push_session_pending",
    "SELECT message_id, delivered_at != '' FROM message_ins",
    "SELECT message_id, reply_to_message_id, delivered_at != '' FROM message_res",
)


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    interval = sys.getswitchinterval()
    for place in (sql_mixin, SqlCoreState, SqlLinkState, SqlObjectStore):
        for name in vars(place).copy():
            if not name.startswith("__") and name != "_abc_impl":
                monkeypatch.setattr(place, name, vars(place)[name])
    yield
    sys.setswitchinterval(interval)


class Play:
    """A run, two nodes, and what was answered by each step, with the tables after it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.told = path, []  # type: tuple[Path, list[Any]]
        self.store = SqlObjectStore(str(path))
        self.store.initialize()
        self.state = SqlLinkState(str(path), NoOpFederationManager(), self.store)
        self.state.initialize()
        fab = self.state.store_fab(Fab(hashlib.sha256(b"app").hexdigest(), b"app", {}))
        self.run = self.state.create_run(
            "a/b", "1", fab, {}, NOOP_FEDERATION_ID, None, "me", TaskType.SERVER_APP
        )
        (self.task,) = self.state.get_tasks(run_ids=[self.run])
        self.token = self.state.claim_task(self.task.task_id)
        assert self.state.activate_task(self.task.task_id)
        self.nodes = [self.state.create_node("me", "me", key, 30) for key in (b"1", b"2")]
        for node in self.nodes:
            self.state.activate_node(node, 1000)
        for name, value in (("_run_id", self.run), ("_task_id", 1), ("_node_id", 1)):
            monkeypatch.setattr(TaskIdentity, name, value)

    def step(self, action: Callable[[], Any]) -> Any:
        try:
            answer = action()
        except ValueError as error:
            answer = str(error).replace(str(self.run), "RUN")
        with sqlite3.connect(self.path) as database:
            tables = [sorted(database.execute(query)) for query in TABLES]
        self.told.append((answer, tables))
        return answer

    def send(self, content: RecordDict, node: int, session: str, ttl: float = 1000) -> Message:
        message = Message(content, self.nodes[node], "train", ttl=ttl)
        message.metadata.__dict__["_message_id"] = content.object_id
        self.step(
            lambda: self.state.store_message_and_object_tree(
                message, get_object_tree(content), session
            )
        )
        return message

    def push(self, content: RecordDict, session: str) -> None:
        for name, part in get_all_nested_objects(content).items():
            self.step(lambda n=name, p=part: self.store_object(session, n, p.deflate()))

    def store_object(self, session: str, name: str, content: bytes) -> bool:
        return self.state.store_object(self.run, session, name, content)

    def pull(self, node: int) -> list[str]:
        return [m.metadata.message_id for m in self.state.get_message_ins(self.nodes[node], 1)]

    def execute(self, statement: str) -> None:
        with sqlite3.connect(self.path) as database:
            database.execute(statement)


def contents(*values: float) -> RecordDict:
    records = {str(n): ConfigRecord({"value": value}) for n, value in enumerate(values)}
    return RecordDict({"shared": ConfigRecord({"model": b"m" * 1000}), **records})


def play(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    play = Play(path, monkeypatch)
    state, store, step = play.state, play.store, play.step
    first, second = contents(1.0), contents(2.0, 3.0)
    session = state.start_session(play.run)
    messages = [play.send(first, 0, session), play.send(second, 1, session)]
    step(lambda: store.get("0" * 64))
    step(lambda: play.store_object(session, first.object_id, b"not it"))
    step(lambda: play.store_object("no such session", first.object_id, b""))
    step(lambda: state.get_object(play.run, first.object_id))
    play.push(first, session)
    play.push(second, session)
    for content in (first, second):
        step(lambda c=content: state.get_object(play.run, c.object_id))
        step(lambda c=content: store.get_object_tree(c.object_id) == get_object_tree(c))
    step(lambda: play.pull(0))
    step(lambda: play.pull(0))
    step(lambda: play.pull(1))
    # The same again while it is there, and parts of no sense.
    again = state.start_session(play.run)
    step(lambda: state.preregister_object_tree(get_object_tree(first), again))
    step(lambda: state.preregister_object_tree(get_object_tree(first), "no such session"))
    step(lambda: state.preregister_object_tree(ObjectTree(object_id="short"), again))
    fake = ObjectTree(object_id=first.object_id, children=[ObjectTree(object_id="1" * 64)])
    step(lambda: state.preregister_object_tree(fake, again))
    twice = ObjectTree(object_id="2" * 64, children=[ObjectTree(object_id="3" * 64)] * 2)
    step(lambda: state.preregister_object_tree(twice, again))
    # Replies: one is stored, a second to the same message and one of another node are not.
    for number, message in ((0, messages[0]), (0, messages[0]), (1, messages[0])):
        up = contents(10.0 + len(play.told))
        reply = Message(up, reply_to=message)
        reply.metadata.__dict__["_message_id"] = up.object_id
        reply.metadata.__dict__["_src_node_id"] = play.nodes[number]
        tree, pushing = get_object_tree(up), state.start_session(play.run)
        step(lambda r=reply, t=tree, p=pushing: state.store_message_and_object_tree(r, t, p))
        play.push(up, pushing)
    names = {message.metadata.message_id for message in messages}
    step(lambda: [m.metadata.reply_to_message_id for m in state.get_message_res(names, play.run)])
    step(lambda: state.get_message_res(names, play.run + 1))
    # What is taken is deleted, but for what another message has as well.
    step(lambda: store.delete("0" * 64))
    step(lambda: store.delete(first.object_id))
    step(lambda: store.get_object_tree(second.object_id) == get_object_tree(second))
    step(lambda: store.delete(second.object_id))
    # A push that took too long takes its message with it; a message that expired is not given.
    late = contents(4.0)
    slow = state.start_session(play.run)
    play.send(late, 0, slow)
    play.execute("UPDATE object_push_sessions SET expires_at = '2020-01-01 00:00:00+00:00'")
    play.push(late, slow)
    old = contents(5.0)
    session = state.start_session(play.run)
    play.send(old, 0, session)
    play.push(old, session)
    play.execute("UPDATE message_ins SET created_at = created_at - 5000")
    step(lambda: play.pull(0))
    state.finish_task(play.task.task_id, "completed", "")
    play.send(contents(6.0), 0, session)
    step(lambda: state.cleanup_run(play.run))
    return play.told


@pytest.mark.usefixtures("restored")
def test_they_do_to_the_tables_what_flower_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flowers = play(tmp_path / "flower.db", monkeypatch)
    for adaptation in ADAPTATIONS:
        if adaptation.name in ("objects", "messages"):
            adaptation.apply()
    ours = play(tmp_path / "ours.db", monkeypatch)
    assert len(flowers) == len(ours) > 40
    for number, (flower, our) in enumerate(zip(flowers, ours, strict=True)):
        assert flower == our, number


@pytest.mark.usefixtures("restored")
def test_the_end_of_a_run_is_known_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (database,) = (adaptation for adaptation in ADAPTATIONS if adaptation.name == "database")
    database.apply()
    play = Play(tmp_path / "state.db", monkeypatch)
    queries: list[str] = []
    monkeypatch.setattr(
        play.state, "session", lambda: queries.append("") or SqlLinkState.session(play.state)
    )
    for _ in range(50):
        assert play.state.get_run_status({play.run})[play.run].status == "running"
        task = play.state.get_task_by_token(play.token)
        assert task is not None
        assert task.task_id == play.task.task_id
    assert len(queries) < 20, "asked once a second, as are expired tokens"
    play.state.finish_task(play.task.task_id, "stopped", "")
    assert play.state.get_run_status({play.run})[play.run].status == "finished"
    assert play.state.get_task_by_token(play.token) is None
