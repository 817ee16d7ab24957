"""The SuperLink's database: fewer writes, whose writers take turns, and none of them gives up.

Flower 1.39 keeps its state in one SQLite file in WAL mode, to which one connection at a time
writes. The others sleep and look again, so that late ones overtake early ones; whoever has waited
for 5 s ends its call with INTERNAL, "database is locked". And nearly every call writes: it expires
the tokens of tasks, counts bytes, and claims messages where there is none. What changes:

- All writers are threads of this process. A lock of their own wakes the next one at once.
- Tokens of tasks, which live for a minute, are expired once a second.
- Bytes sent and received are added up in memory, and written once a second. A SuperLink that is
  killed loses the last second of them; nothing but ``flwr list`` shows them.
- The node of a public key is remembered until a node is deleted; that a run goes on, and whose
  token it is that a ServerApp shows, for a second, or until a task has ended.
- Threads take turns at computing ten times as often as Python lets them.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deploy.adaptation import Adaptation

if TYPE_CHECKING:
    from flwr.proto.task_pb2 import Task
    from flwr.supercore.run import RunStatus
    from sqlalchemy import Engine

Answer = TypeVar("Answer")

TIMEOUT = 60.0
"""Seconds that a writer waits for its turn, and then again for SQLite's own lock."""
EVERY = 1.0
"""Seconds between two writes of what is of no haste."""
SWITCH = 0.0005
"""Seconds for which a thread may compute while another one waits to; Python's own are 5 ms, which
a thread waits for after each statement of its transaction, as it gives up its turn at each."""
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_HELD = "augflower writes"
_TASKS, _RUNS = "_augflower_tasks", "_augflower_runs"

FINGERPRINTS = {
    "initialize": "43ce5ae80d15d11fd6839cd93cb5f32dcb178baca4a4e9e03c935519dc58bf5c",
    "session": "2aa8a8351f33f7c4e9e90a94ec1894ec3c2494fc6d46a93967ef69f107811d78",
    "_set_sqlite_pragmas": "6cf87a44250ef3c47c3b994c7183542ce4b1bf0f22c4e53ba64dba5280d38982",
    "_cleanup_tokens": "34301eae2ee4a008eb2d62da29b327c4941e7fa086ea86da55d412ca58498780",
    "store_traffic": "cc82e5eaf2bb9665843692a01e6cffcf48de9d7ee60fb8e0b6e711d6a58f5524",
    "get_run_info": "4942d132f125b505024a386e8fff31fa9c13f5273ee70e0ed975286542120861",
    "get_task_by_token": "cf6795c4851955b9c545ac9cae183ee5cd75f3ac38393eb8fab72d7d4e41c6bc",
    "get_run_status": "9f5531faa1457333d77a3f7ba5cddc6b46c7a05f18809e5f3bf9cfe86eaa1c0b",
    "finish_task": "5c23d1242db4b26e52412872e42faf16e1ef7aae3352be8adf40259f685bf9ec",
    "get_node_id": "963255b24bed0d35a811da8123c25d071eea95e6d03a4652d94b8aaa190176e3",
    "delete_node": "25f36ea18a8cf615d39abff0bd63d51d149a297f4997cd1f934d8ce16644819d",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore import sql_mixin
    from flwr.supercore.corestate.sql_corestate import SqlCoreState

    return {
        "initialize": sql_mixin.SqlMixin.initialize,
        "session": sql_mixin.SqlMixin.session,
        "_set_sqlite_pragmas": sql_mixin._set_sqlite_pragmas,
        "_cleanup_tokens": SqlCoreState._cleanup_expired_task_tokens,
        "store_traffic": SqlLinkState.store_traffic,
        "get_run_info": SqlLinkState.get_run_info,
        "get_task_by_token": SqlLinkState.get_task_by_token,
        "get_run_status": SqlLinkState.get_run_status,
        "finish_task": SqlLinkState.finish_task,
        "get_node_id": SqlLinkState.get_node_id_by_public_key,
        "delete_node": SqlLinkState.delete_node,
    }


def _apply() -> None:
    sys.setswitchinterval(SWITCH)
    _take_turns_everywhere()
    _expire_tokens_at_leisure()
    _count_bytes_at_leisure()
    _know_keys()
    _know_what_goes_on()


def _take_turns_everywhere() -> None:
    from flwr.supercore import sql_mixin

    module: Any = sql_mixin  # it does not export the two names that it imports
    pragmas = dict(module.SQLITE_PRAGMAS) | {"busy_timeout": f"{1000 * TIMEOUT:.0f}"}
    module.SQLITE_PRAGMAS = tuple(pragmas.items())
    create, turn = module.create_engine, threading.Lock()

    def create_engine(url: str, **options: Any) -> Engine:
        if "poolclass" in options:
            return create(url, **options)  # in memory, with a single connection
        # Those that wait for their turn hold a connection each, and the pool has few.
        engine = create(url, pool_timeout=TIMEOUT, **options)
        take_turns(engine, turn)
        return engine

    module.create_engine = create_engine


def take_turns(engine: Engine, turn: threading.Lock) -> None:
    """Let each transaction of ``engine`` hold ``turn`` from its first write to its end.

    Who does not get it within ``TIMEOUT`` goes on, and SQLite's own lock decides.
    """
    from sqlalchemy import event

    def take(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if _WRITES.search(statement) and _HELD not in connection.info:
            connection.info[_HELD] = turn.acquire(timeout=TIMEOUT)

    def leave(_connection: Any, record: Any, *_rest: Any) -> None:
        if record.info.pop(_HELD, False):
            turn.release()

    event.listen(engine, "before_cursor_execute", take)
    # SQLAlchemy tells of a commit before it makes it; a session returns its connection after it.
    event.listen(engine, "checkin", leave)
    event.listen(engine, "invalidate", leave)


class Leisure:
    """Tells, of several threads, one in a while that it is time."""

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._due, self._lock = clock(), threading.Lock()

    def due(self) -> bool:
        """Whether ``every`` seconds have passed since this was last true."""
        with self._lock:
            if self._clock() < self._due:
                return False
            self._due = self._clock() + self._every
            return True


def _expire_tokens_at_leisure() -> None:
    from flwr.supercore.corestate.sql_corestate import SqlCoreState

    expire = SqlCoreState._cleanup_expired_task_tokens

    def _cleanup_expired_task_tokens(self: Any) -> None:
        if vars(self).setdefault("_augflower_tokens", Leisure(EVERY)).due():
            expire(self)
            _forget_tasks(self)

    SqlCoreState._cleanup_expired_task_tokens = (  # type: ignore[method-assign]
        _cleanup_expired_task_tokens
    )


class Traffic:
    """Bytes of each run that have not been written yet."""

    def __init__(self) -> None:
        self._bytes: dict[int, tuple[int, int]] = {}
        self._lock, self._leisure = threading.Lock(), Leisure(EVERY)

    def add(self, run: int, sent: int, received: int) -> None:
        """Count bytes."""
        with self._lock:
            before = self._bytes.get(run, (0, 0))
            self._bytes[run] = (before[0] + sent, before[1] + received)

    def take(self) -> dict[int, tuple[int, int]]:
        """Run -> bytes sent and received, when it is time to write them; empty otherwise."""
        if not self._bytes or not self._leisure.due():
            return {}
        with self._lock:
            taken, self._bytes = self._bytes, {}
        return taken


def _count_bytes_at_leisure() -> None:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    write, read = SqlLinkState.store_traffic, SqlLinkState.get_run_info

    def traffic(self: Any) -> Traffic:
        return vars(self).setdefault("_augflower_traffic", Traffic())

    def flush(self: Any) -> None:
        for run, (sent, received) in traffic(self).take().items():
            write(self, run, bytes_sent=sent, bytes_recv=received)

    def store_traffic(self: Any, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        if min(bytes_sent, bytes_recv) < 0 or bytes_sent == bytes_recv == 0:
            write(self, run_id, bytes_sent=bytes_sent, bytes_recv=bytes_recv)  # refuses them
        traffic(self).add(run_id, bytes_sent, bytes_recv)
        flush(self)

    def get_run_info(self: Any, **conditions: Any) -> Any:
        flush(self)
        return read(self, **conditions)

    SqlLinkState.store_traffic = store_traffic  # type: ignore[method-assign]
    SqlLinkState.get_run_info = get_run_info  # type: ignore[method-assign]


class Memo(Generic[Answer]):
    """Answers of the database that hold until it is written to."""

    def __init__(self, lasting: Callable[[Answer], bool]) -> None:
        """``lasting``: whether an answer is worth keeping."""
        self._lasting = lasting
        self._known: dict[Hashable, Answer] = {}
        self._writes, self._lock = 0, threading.Lock()

    def ask(self, key: Hashable, question: Callable[[], Answer]) -> Answer:
        """The answer to a question; not kept where something was written meanwhile."""
        with self._lock:
            if key in self._known:
                return self._known[key]
            writes = self._writes
        answer = question()
        with self._lock:
            if writes == self._writes and self._lasting(answer):
                self._known[key] = answer
        return answer

    def forget(self) -> None:
        """Something was written, and is there for all to read."""
        with self._lock:
            self._writes += 1
            self._known.clear()


def _know_keys() -> None:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    look, delete = SqlLinkState.get_node_id_by_public_key, SqlLinkState.delete_node

    def keys(self: Any) -> Memo[int | None]:
        return _memo(self, "_augflower_keys", lambda node: node is not None)

    def get_node_id_by_public_key(self: Any, public_key: bytes) -> int | None:
        return keys(self).ask(public_key, lambda: look(self, public_key))

    def delete_node(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            delete(self, *args, **kwargs)
        finally:
            keys(self).forget()

    SqlLinkState.get_node_id_by_public_key = (  # type: ignore[method-assign]
        get_node_id_by_public_key
    )
    SqlLinkState.delete_node = delete_node  # type: ignore[method-assign]


def _know_what_goes_on() -> None:
    from flwr.common.constant import Status
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    find, look, finish = (
        SqlLinkState.get_task_by_token, SqlLinkState.get_run_status, SqlLinkState.finish_task,
    )  # fmt: skip

    def going_on(found: Any) -> bool:
        return found is not None and found.status == Status.RUNNING

    def get_task_by_token(self: Any, token: str) -> Task | None:
        self._cleanup_expired_task_tokens()
        tasks = _memo(self, _TASKS, lambda task: going_on(task and task.status))
        task: Task | None = tasks.ask(token, lambda: find(self, token))
        return task

    def get_run_status(self: Any, run_ids: set[int]) -> dict[int, RunStatus]:
        self._cleanup_expired_task_tokens()
        runs = _memo(self, _RUNS, lambda found: all(map(going_on, found.values())))
        return dict(runs.ask(frozenset(run_ids), lambda: look(self, run_ids)))

    def finish_task(self: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            return finish(self, *args, **kwargs)
        finally:
            _forget_tasks(self)

    state: Any = SqlLinkState
    for function in (get_task_by_token, get_run_status, finish_task):
        setattr(state, function.__name__, function)


def _memo(state: Any, name: str, lasting: Callable[[Any], bool]) -> Memo[Any]:
    memo: Memo[Any] = vars(state).setdefault(name, Memo[Any](lasting))
    return memo


def _forget_tasks(state: Any) -> None:
    for name in (_TASKS, _RUNS):
        if name in vars(state):
            vars(state)[name].forget()


ADAPTATION = Adaptation(
    name="database",
    loss="devices are lost to a locked database, and rounds take longer",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
