"""Messages in the SuperLink's database, with statements that are written out.

They do to the same tables what those of Flower 1.39 do (``statements.py`` says why), but for two
things: a look for messages writes only where it finds one, and it finds one when all parts of it
are there. Flower shows its head at once, and devices then ask for its parts again and again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deploy.adaptation import Adaptation
from deploy.superlink_adaptations.statements import execute, execute_each

if TYPE_CHECKING:
    from flwr.proto.message_pb2 import ObjectTree

WHOLE = 180.0
"""Seconds for which a message waits for its parts, as long as Flower lets its sender push them."""
_CLAIM = """
    DELETE FROM object_push_session_pending
    WHERE session_id = ? AND object_id = ? AND EXISTS (
        SELECT 1 FROM object_push_sessions WHERE session_id = ? AND run_id = ?
    )
    RETURNING session_id
"""
_PENDING = """
    INSERT INTO object_push_session_pending (session_id, object_id) VALUES (?, ?)
    ON CONFLICT (session_id, object_id) DO NOTHING
"""
_COUNT = """
    UPDATE object_push_sessions SET pending_count = (
        SELECT count(*) FROM object_push_session_pending WHERE session_id = ?
    ) WHERE session_id = ?
"""
_BEGIN = """
    INSERT INTO object_push_sessions (session_id, run_id, expires_at, pending_count)
    VALUES (?, ?, ?, 0)
"""
_STORED = """
    UPDATE object_push_sessions SET expires_at = ?, pending_count = pending_count - 1
    WHERE session_id = ? RETURNING pending_count
"""
_OF_RUN = "SELECT run_id FROM object_push_sessions WHERE session_id = ?"
_OLDER = """
    SELECT session_id FROM object_push_session_roots WHERE root_object_id = ? AND session_id != ?
"""
_ROOT = "INSERT INTO object_push_session_roots (session_id, root_object_id) VALUES (?, ?)"
_UNTIL = "SELECT expires_at FROM object_push_sessions WHERE session_id = ?"
_END = "DELETE FROM object_push_sessions WHERE session_id = ?"
_OLDEST = """
    SELECT message_id, created_at FROM message_ins
    WHERE dst_node_id = ? AND delivered_at = '' AND created_at + ttl > ?
    ORDER BY created_at, message_id LIMIT 1
"""
_LACKING = """
    WITH RECURSIVE tree(part) AS (
        SELECT ? UNION SELECT child_id FROM object_children JOIN tree ON parent_id = part
    )
    SELECT 1 FROM tree JOIN objects ON object_id = part WHERE is_available = 0 LIMIT 1
"""
_COLUMNS = """
    message_id, group_id, run_id, src_node_id, dst_node_id, reply_to_message_id, created_at,
    delivered_at, ttl, message_type, content, error
"""
_DELIVER = f"""
    UPDATE message_ins SET delivered_at = ? WHERE message_id = ? AND delivered_at = ''
    RETURNING {_COLUMNS}
"""
_LOAD = f"""
    SELECT {_COLUMNS} FROM message_ins WHERE message_id IN (SELECT value FROM json_each(?))
    ORDER BY created_at, message_id
"""
_CHECKED = """
    SELECT message_id, run_id, src_node_id, dst_node_id, created_at + ttl AS until, federation_id
    FROM message_ins LEFT JOIN run USING (run_id)
    WHERE message_id IN (SELECT value FROM json_each(?))
"""
_LOCK_RUN = """
    UPDATE run SET run_id = run_id WHERE run_id = ? AND (? OR EXISTS (
        SELECT 1 FROM task WHERE task_id = primary_task_id AND finished_at IS NULL
    ))
    RETURNING run_id, federation_id, primary_task_id
"""

FINGERPRINTS = {
    "session": "2aa8a8351f33f7c4e9e90a94ec1894ec3c2494fc6d46a93967ef69f107811d78",
    "start_session": "1921ed72bdf87baf41eb31ca6bebebdb9e3e3c97b4b6b8f61e672ece153d7b7b",
    "preregister_object_tree": "e8627c45d229977f414102042065a62037a5893c00b3fee20b48526df3261a08",
    "store_object": "903590e226814f4ab60292a958da882e8608db38a732c185e82efd9452b6e548",
    "_claim_pending_object": "6a8e5373eef3daed5523ca6bbbb36decf47c44e19aeaae4b37ba0f790f9e0c8f",
    "_cleanup_push_session": "6e84f952c16abe0431fe6e2dbe0f2824aed505a1976f50f615ea25b04625220e",
    "get_message_ins": "4299efc545e677d71946ae389dadd570a8dc835f85bdb97787f3a6a38e0aa9ac",
    "_claim_message_ins_rows": "cd74f93ce469fc83df3885f3598a34b2f304ca25a841bbcb105894d27a5f5013",
    "_load_message_ins_rows": "18748b2fdbccd8fa34c7a99d95873496bb1d127706b9d956e6720fb82a6c8bdf",
    "_message_model_to_dict": "379c49e10547346d0d827b1b1d55f901a143e5353dda8b26302253838eda08c6",
    "get_valid_message_ins": "59abe5660f998a11161c994c964e2743f8b7df316c85ac10597ea6136119ca29",
    "_check_stored_messages": "e4aa2d05a99a0d66b9d98651318ac22f766ab9db5d4d66e79d0d641a23aaee3a",
    "_lock_run": "6b5866bba8427ac34d62a93e4df9451946962dada550e3be5c903a8fedcfde70",
    "ObjectPushSession": "803b8ceca9ec053fb8c5e1d100302426291e2b42a8cfe5550379df05a24547f6",
    "ObjectPushSessionRoot": "2ba7cc7bbc2c6b48316b88e717f43399008b1dafa89d037c793ce5fe39f41178",
    "ObjectPushSessionPending": "df4521e3a1f3c33584c2c6d0bd8a4a5b7ca91d4c51610bf57b1f185d1c2c79ba",
    "MessageIns": "18b05953608d6c5344167a092e5f842d87561dc07fce0993bd78c18f493fad83",
    "Run": "1292966651a6e9544b3e745da6105aa84a15258042b703ff615a0c4ab2854489",
    "UTCDateTime": "36c1010a1c2ef7b35fcd83136a7964ef1941b6cae7e456470668aee773cc822b",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.linkstate import sql_linkstate
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.corestate.sql_corestate import SqlCoreState
    from flwr.supercore.sql_mixin import SqlMixin
    from flwr.supercore.state.schema import corestate_models, linkstate_models
    from flwr.supercore.state.schema.types import UTCDateTime

    return {
        "session": SqlMixin.session,
        "start_session": SqlCoreState.start_session,
        "preregister_object_tree": SqlCoreState.preregister_object_tree,
        "store_object": SqlCoreState.store_object,
        "_claim_pending_object": SqlCoreState._claim_pending_object,
        "_cleanup_push_session": SqlCoreState._cleanup_push_session,
        "get_message_ins": SqlLinkState.get_message_ins,
        "_claim_message_ins_rows": SqlLinkState._claim_message_ins_rows,
        "_load_message_ins_rows": SqlLinkState._load_message_ins_rows,
        "_message_model_to_dict": sql_linkstate._message_model_to_dict,
        "get_valid_message_ins": SqlLinkState.get_valid_message_ins,
        "_check_stored_messages": SqlLinkState._check_stored_messages,
        "_lock_run": SqlLinkState._lock_run,
        "ObjectPushSession": corestate_models.ObjectPushSession,
        "ObjectPushSessionRoot": corestate_models.ObjectPushSessionRoot,
        "ObjectPushSessionPending": corestate_models.ObjectPushSessionPending,
        "MessageIns": linkstate_models.MessageIns,
        "Run": linkstate_models.Run,
        "UTCDateTime": UTCDateTime,
    }


def _apply() -> None:
    _keep_push_sessions()
    _keep_messages()


def _keep_push_sessions() -> None:
    from flwr.supercore import log
    from flwr.supercore.constant import OBJECT_PUSH_SESSION_TTL_SECONDS
    from flwr.supercore.corestate.sql_corestate import SqlCoreState
    from flwr.supercore.date import now
    from flwr.supercore.state.schema.types import UTCDateTime
    from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
    from sqlalchemy.dialects import sqlite

    kind, store_unnamed = UTCDateTime(), SqlCoreState.store_object
    read = kind.result_processor(sqlite.dialect(), None)
    written = kind.bind_processor(sqlite.dialect())

    def lasting() -> str:
        until: str = written(now() + timedelta(seconds=OBJECT_PUSH_SESSION_TTL_SECONDS))
        return until

    def preregister_object_tree(self: Any, object_tree: ObjectTree, session_id: str) -> list[str]:
        with self.session():
            found = execute(self, _OF_RUN, session_id)
            if not found:
                raise ValueError(f"Unknown object push session: {session_id}")
            missing: list[str] = self.object_store.preregister(
                int64_to_uint64(found[0][0]), object_tree
            )
            older = execute(self, _OLDER, object_tree.object_id, session_id)
            if older:
                self._cleanup_push_session(older[0][0], cleanup_messages=False)
            execute(self, _ROOT, session_id, object_tree.object_id)
            if missing:
                execute_each(self, _PENDING, [(session_id, part) for part in missing])
            execute(self, _COUNT, session_id, session_id)
            return missing

    def start_session(self: Any, run_id: int) -> str:
        name = str(uuid4())
        execute(self, _BEGIN, name, uint64_to_int64(run_id), lasting())
        return name

    def store_object(
        self: Any, run_id: int, session_id: str, object_id: str, object_content: bytes
    ) -> bool:
        if not session_id:
            return store_unnamed(self, run_id, session_id, object_id, object_content)
        try:
            with self.session():
                run = uint64_to_int64(run_id)
                if not execute(self, _CLAIM, session_id, object_id, session_id, run):
                    return False
                ((until,),) = execute(self, _UNTIL, session_id)
                if read(until) <= now():
                    self._cleanup_push_session(session_id, cleanup_messages=True)
                    return False
                self.object_store.put(object_id, object_content)
                ((pending,),) = execute(self, _STORED, lasting(), session_id)
                if pending == 0:
                    execute(self, _END, session_id)
                return True
        except Exception as error:  # whatever it is: Flower refuses the object, and says so
            log(logging.ERROR, "Failed to store object %s: %s", object_id, error)
            return False

    state: Any = SqlCoreState
    for function in (preregister_object_tree, start_session, store_object):
        setattr(state, function.__name__, function)


def _keep_messages() -> None:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.date import now
    from flwr.supercore.utils import int64_to_uint64, uint64_to_int64

    claim = SqlLinkState._claim_message_ins_rows

    def _claim_message_ins_rows(
        self: Any, node_id: int, limit: int | None, run_id: int | None = None
    ) -> list[dict[str, Any]]:
        # Looking does not write; what another look claims meanwhile is not claimed again.
        found = execute(self, _OLDEST, uint64_to_int64(node_id), now().timestamp())
        if not found:
            return []
        name, created = found[0]
        if now().timestamp() - created < WHOLE and execute(self, _LACKING, name):
            return []
        if limit != 1 or run_id is not None:
            return claim(self, node_id, limit, run_id)
        return _messages(execute(self, _DELIVER, now().isoformat(), name))

    def _load_message_ins_rows(self: Any, message_ids: set[str]) -> list[dict[str, Any]]:
        return _messages(execute(self, _LOAD, json.dumps(sorted(message_ids))))

    def get_valid_message_ins(self: Any, message_id: str) -> dict[str, Any] | None:
        with self.session():
            self._check_stored_messages({message_id})
            found: list[dict[str, Any]] = self._load_message_ins_rows({message_id})
            return found[0] if found else None

    def _check_stored_messages(self: Any, message_ids: set[str], run_id: int | None = None) -> None:
        with self.session():
            rows = execute(self, _CHECKED, json.dumps(sorted(message_ids)))
            if run_id is not None and any(row.run_id != uint64_to_int64(run_id) for row in rows):
                raise ValueError("`message_ids` contains invalid IDs")
            invalid = set()
            for row in rows:
                ends = {int64_to_uint64(row.src_node_id), int64_to_uint64(row.dst_node_id)}
                there = row.federation_id and row.until > now().timestamp()
                if there and len(ends) > 1:
                    there = self.federation_manager.filter_nodes(ends, row.federation_id) == ends
                if not there:
                    invalid.add(row.message_id)
            self.delete_messages(invalid)

    def _lock_run(
        self: Any, run_id: int, *, require_unfinished: bool = False
    ) -> dict[str, Any] | None:
        locked = execute(self, _LOCK_RUN, uint64_to_int64(run_id), not require_unfinished)
        return dict(locked[0]._mapping) if locked else None

    state: Any = SqlLinkState
    for function in (
        _claim_message_ins_rows, _load_message_ins_rows, get_valid_message_ins,
        _check_stored_messages, _lock_run,
    ):  # fmt: skip
        setattr(state, function.__name__, function)


def _messages(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in rows]


ADAPTATION = Adaptation(
    name="messages",
    loss="a round with a database takes longer, and devices ask for parts that are not there yet",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
