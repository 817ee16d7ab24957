"""The SuperLink's database: writers take turns, and none of them gives up after five seconds.

Flower 1.39 keeps its state in one SQLite file in WAL mode, to which one connection at a time
writes. The others sleep and look again, so that late ones overtake early ones; whoever has waited
for 5 s ends its call with INTERNAL, "database is locked". All writers are threads of this process,
so a lock of their own is enough: it wakes the next one at once.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from deploy.adaptation import Adaptation

if TYPE_CHECKING:
    from sqlalchemy import Engine

PATIENCE = 60.0
"""Seconds that a writer waits for its turn, and then again for SQLite's own lock."""
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_HELD = "augflower writes"

FINGERPRINTS = {
    "initialize": "43ce5ae80d15d11fd6839cd93cb5f32dcb178baca4a4e9e03c935519dc58bf5c",
    "session": "2aa8a8351f33f7c4e9e90a94ec1894ec3c2494fc6d46a93967ef69f107811d78",
    "_set_sqlite_pragmas": "6cf87a44250ef3c47c3b994c7183542ce4b1bf0f22c4e53ba64dba5280d38982",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


def _functions() -> dict[str, Any]:
    from flwr.supercore import sql_mixin

    return {
        "initialize": sql_mixin.SqlMixin.initialize,
        "session": sql_mixin.SqlMixin.session,
        "_set_sqlite_pragmas": sql_mixin._set_sqlite_pragmas,
    }


def _apply() -> None:
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


ADAPTATION = Adaptation(
    name="database",
    loss="devices are lost to a locked database, and rounds take longer",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
