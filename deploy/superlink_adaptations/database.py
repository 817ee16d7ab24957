"""The SuperLink's database: fewer writes, whose writers take turns, and none of them gives up.

Flower 1.39 keeps its state in one SQLite file in WAL mode, to which one connection at a time
writes. The others sleep and look again, so that late ones overtake early ones; whoever has waited
for 5 s ends its call with INTERNAL, "database is locked". And nearly every call writes: it expires
the tokens of tasks, counts bytes, and claims messages where there is none. What changes:

- All writers are threads of this process. A lock of their own wakes the next one at once.
- Tokens of tasks, which live for a minute, are expired once a second.
- Bytes sent and received are added up in memory, and written once a second. A SuperLink that is
  killed loses the last second of them; nothing but ``flwr list`` shows them.
- An empty look for messages does not write; nor does it read where none was stored since the last.
  A message is found when all of its parts are there: Flower shows its head at once, and devices
  then ask for its parts again and again.
- The node of a public key is remembered until a node is deleted.
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
    from sqlalchemy import Engine

Answer = TypeVar("Answer")

TIMEOUT = 60.0
"""Seconds that a writer waits for its turn, and then again for SQLite's own lock."""
EVERY = 1.0
"""Seconds between two writes of what is of no haste."""
WHOLE = 180.0
"""Seconds for which a message waits for its parts, as long as Flower lets its sender push them."""
SWITCH = 0.0005
"""Seconds for which a thread may compute while another one waits to; Python's own are 5 ms, which
a thread waits for after each statement of its transaction, as it gives up its turn at each."""
_OLDEST = """
    SELECT message_id, created_at FROM message_ins
    WHERE dst_node_id = :node AND delivered_at = ''
    ORDER BY created_at, message_id LIMIT 1
"""
_LACKING = """
    WITH RECURSIVE tree(part) AS (
        SELECT :message
        UNION SELECT child_id FROM object_children JOIN tree ON parent_id = part
    )
    SELECT 1 FROM tree JOIN objects ON object_id = part WHERE is_available = 0 LIMIT 1
"""
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_HELD = "augflower writes"

FINGERPRINTS = {
    "initialize": "43ce5ae80d15d11fd6839cd93cb5f32dcb178baca4a4e9e03c935519dc58bf5c",
    "session": "2aa8a8351f33f7c4e9e90a94ec1894ec3c2494fc6d46a93967ef69f107811d78",
    "_set_sqlite_pragmas": "6cf87a44250ef3c47c3b994c7183542ce4b1bf0f22c4e53ba64dba5280d38982",
    "_cleanup_tokens": "34301eae2ee4a008eb2d62da29b327c4941e7fa086ea86da55d412ca58498780",
    "store_traffic": "cc82e5eaf2bb9665843692a01e6cffcf48de9d7ee60fb8e0b6e711d6a58f5524",
    "get_run_info": "4942d132f125b505024a386e8fff31fa9c13f5273ee70e0ed975286542120861",
    "get_message_ins": "4299efc545e677d71946ae389dadd570a8dc835f85bdb97787f3a6a38e0aa9ac",
    "_claim_message_ins_rows": "cd74f93ce469fc83df3885f3598a34b2f304ca25a841bbcb105894d27a5f5013",
    "store_message_ins": "03ff7e13cf98ba01d8b70a6c55fc6b50ac9808839f2f8f45ccf61f98edb25ed6",
    "store_message": "1fd5d65c086f3d6b56892ebdf517a47e66e94bcfd12bca50089ba1b15f5817c1",
    "create_run": "44f677818ba5bce42c6a16135a9b07ce1be5ceff8f338417e19b2da33c05f46a",
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
        "get_message_ins": SqlLinkState.get_message_ins,
        "_claim_message_ins_rows": SqlLinkState._claim_message_ins_rows,
        "store_message_ins": SqlLinkState.store_message_ins,
        "store_message": SqlLinkState.store_message_and_object_tree,
        "create_run": SqlLinkState.create_run,
        "get_node_id": SqlLinkState.get_node_id_by_public_key,
        "delete_node": SqlLinkState.delete_node,
    }


def _apply() -> None:
    sys.setswitchinterval(SWITCH)
    _take_turns_everywhere()
    _expire_tokens_at_leisure()
    _count_bytes_at_leisure()
    _look_before_claiming()
    _know_keys()


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

    def forget_one(self, key: Hashable) -> None:
        """The same, of what one key is asked about."""
        with self._lock:
            self._writes += 1
            self._known.pop(key, None)


def _look_before_claiming() -> None:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.utils import uint64_to_int64

    claim = SqlLinkState._claim_message_ins_rows
    store, store_all = SqlLinkState.store_message_ins, SqlLinkState.store_message_and_object_tree
    create_run = SqlLinkState.create_run

    def waiting(self: Any) -> Memo[bool]:
        return vars(self).setdefault("_augflower_waiting", Memo[bool](lambda found: not found))

    def _claim_message_ins_rows(
        self: Any, node_id: int, limit: int | None, run_id: int | None = None
    ) -> list[dict[str, Any]]:
        # The claim, which writes, looks closer: what is found here may have expired.
        oldest: list[dict[str, Any]] = []

        def look() -> bool:
            oldest.extend(self.query(_OLDEST, {"node": uint64_to_int64(node_id)}))
            return bool(oldest)

        if not waiting(self).ask(node_id, look):
            return []
        message = oldest[0]
        young = time.time() - message["created_at"] < WHOLE
        if young and self.query(_LACKING, {"message": message["message_id"]}):
            return []
        return claim(self, node_id, limit, run_id)

    def store_message_ins(self: Any, message: Any) -> Any:
        stored = store(self, message)
        waiting(self).forget_one(message.metadata.dst_node_id)
        return stored

    def store_message_and_object_tree(self: Any, message: Any, *others: Any) -> Any:
        # The transaction around both has ended when it returns.
        stored = store_all(self, message, *others)
        waiting(self).forget_one(message.metadata.dst_node_id)
        return stored

    def create_run_(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = create_run(self, *args, **kwargs)
        waiting(self).forget()  # it may come with a message
        return run

    state: Any = SqlLinkState
    state._claim_message_ins_rows = _claim_message_ins_rows
    state.store_message_ins = store_message_ins
    state.store_message_and_object_tree = store_message_and_object_tree
    state.create_run = create_run_


def _know_keys() -> None:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    look, delete = SqlLinkState.get_node_id_by_public_key, SqlLinkState.delete_node

    def keys(self: Any) -> Memo[int | None]:
        return vars(self).setdefault(
            "_augflower_keys", Memo[int | None](lambda node: node is not None)
        )

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


ADAPTATION = Adaptation(
    name="database",
    loss="devices are lost to a locked database, and rounds take longer",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
