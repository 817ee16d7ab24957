"""The SuperLink's database: fewer writes, whose writers take turns, and none of them gives up.

Flower 1.39 keeps its state in one SQLite file in WAL mode, to which one connection at a time
writes. The others sleep and look again, so that late ones overtake early ones; whoever has waited
for 5 s ends its call with INTERNAL, "database is locked". And nearly every call writes: it expires
the tokens of tasks, counts bytes, and claims messages where there is none. Four things change:

- All writers are threads of this process. A lock of their own wakes the next one at once.
- Tokens of tasks, which live for a minute, are expired once a second.
- Bytes sent and received are added up in memory, and written once a second. A SuperLink that is
  killed loses the last second of them; nothing but ``flwr list`` shows them.
- An empty look for messages reads, and does not write.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deploy.adaptation import Adaptation

if TYPE_CHECKING:
    from sqlalchemy import Engine

PATIENCE = 60.0
"""Seconds that a writer waits for its turn, and then again for SQLite's own lock."""
EVERY = 1.0
"""Seconds between two writes of what is of no haste."""
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
    }


def _apply() -> None:
    _take_turns_everywhere()
    _expire_tokens_at_leisure()
    _count_bytes_at_leisure()
    _look_before_claiming()


def _take_turns_everywhere() -> None:
    from flwr.supercore import sql_mixin

    module: Any = sql_mixin  # it does not export the two names that it imports
    pragmas = dict(module.SQLITE_PRAGMAS) | {"busy_timeout": f"{1000 * PATIENCE:.0f}"}
    module.SQLITE_PRAGMAS = tuple(pragmas.items())
    create, turn = module.create_engine, threading.Lock()

    def create_engine(url: str, **options: Any) -> Engine:
        if "poolclass" in options:
            return create(url, **options)  # in memory, with a single connection
        # Those that wait for their turn hold a connection each, and the pool has few.
        engine = create(url, pool_timeout=PATIENCE, **options)
        take_turns(engine, turn)
        return engine

    module.create_engine = create_engine


def take_turns(engine: Engine, turn: threading.Lock) -> None:
    """Let each transaction of ``engine`` hold ``turn`` from its first write to its end.

    Who does not get it within ``PATIENCE`` goes on, and SQLite's own lock decides.
    """
    from sqlalchemy import event

    def take(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if _WRITES.search(statement) and _HELD not in connection.info:
            connection.info[_HELD] = turn.acquire(timeout=PATIENCE)

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


def _look_before_claiming() -> None:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.utils import uint64_to_int64

    claim = SqlLinkState._claim_message_ins_rows

    def _claim_message_ins_rows(
        self: Any, node_id: int, limit: int | None, run_id: int | None = None
    ) -> list[dict[str, Any]]:
        # Some that it finds may have expired; the claim, which writes, looks closer.
        found = self.query(
            "SELECT 1 FROM message_ins WHERE dst_node_id = :node AND delivered_at = '' LIMIT 1",
            {"node": uint64_to_int64(node_id)},
        )
        return claim(self, node_id, limit, run_id) if found else []

    SqlLinkState._claim_message_ins_rows = (  # type: ignore[method-assign]
        _claim_message_ins_rows
    )


ADAPTATION = Adaptation(
    name="database",
    loss="devices are lost to a locked database, and rounds take longer",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
