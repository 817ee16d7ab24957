"""The parts of messages in the SuperLink's database, with statements that are written out.

They do to the same tables what those of Flower 1.39 do (``statements.py`` says why).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy.adaptation import Adaptation
from deploy.superlink_adaptations.statements import execute, execute_each

if TYPE_CHECKING:
    from flwr.proto.message_pb2 import ObjectTree

_REGISTER = """
    INSERT INTO objects (object_id, content, is_available, ref_count) VALUES (?, x'', 0, 0)
    ON CONFLICT (object_id) DO NOTHING RETURNING object_id
"""
_AVAILABLE = "SELECT is_available FROM objects WHERE object_id = ?"
_CHILDREN = "SELECT child_id FROM object_children WHERE parent_id = ?"
_JOIN = "INSERT INTO object_children (parent_id, child_id) VALUES (?, ?)"
_HOLD = "UPDATE objects SET ref_count = ref_count + 1 WHERE object_id = ?"
_RELEASE = "UPDATE objects SET ref_count = ref_count - 1 WHERE object_id = ? AND ref_count > 0"
_ASSIGN = "INSERT INTO run_objects (run_id, object_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
_TREE = """
    WITH RECURSIVE part(name) AS (
        SELECT ? UNION SELECT child_id FROM object_children JOIN part ON parent_id = name
    )
    SELECT parent_id, child_id FROM part JOIN object_children ON parent_id = name
"""
_STORE = "UPDATE objects SET content = ?, is_available = 1 WHERE object_id = ? AND is_available = 0"
_CONTENT = "SELECT content FROM objects WHERE object_id = ?"
_DELETE = "DELETE FROM objects WHERE object_id = ? AND ref_count = 0 RETURNING object_id"
_LOCK = """
    INSERT INTO objectstore_locks (lock_id, lock_value) VALUES (?, 0)
    ON CONFLICT (lock_id) DO UPDATE SET lock_value = lock_value
"""

FINGERPRINTS = {
    "session": "2aa8a8351f33f7c4e9e90a94ec1894ec3c2494fc6d46a93967ef69f107811d78",
    "preregister": "b1a91327f784342b503d9df28961c9ea57474cdb7becae17d914f502611b1a6b",
    "get_object_tree": "9774341d09cdafd2fe8371eb20f0936e48407117bc838d9771b78c2a530d284a",
    "put": "399bbf08368d80783c45ab1576c440bc805798858e66fa3589fdff6e30c2bf61",
    "get": "bf5844fab44cc4d7f0352412b1d30774b1ea44d32cc6cd595bf9a305e6ab6181",
    "delete": "ac6c8a3fdb636a2a348aed14a0b7d1add566a8914d97d3680b59333a1b050fef",
    "_mutation_session": "c625ea1696e7aaa14209aedd344342b530e27bd2425bf1c07424ec986f75bd30",
    "_lock": "924aa6d12a7e6479e1c0ce6fdba5732e232d72f7ea6ff0fd7830fa7a18641d28",
    "StoredObject": "b6ec7ef902bc67b09243b9c067f3ae927524a7abb13f80312464268b512a15ee",
    "ObjectChild": "0b173d74c5c69f160c77aa2c627c29f10c7e551cfe37e448ef9a7109456e7be5",
    "RunObject": "9466cf6ff0a4429a19852ff35f43d6fef886795057081d78438835bd08ca40ed",
    "ObjectStoreLock": "310fc2a12f6939f7aebfb3b9648593bad2b7d6165dcfee38bc380d5071194d07",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


def _functions() -> dict[str, Any]:
    from flwr.supercore.object_store.sql_object_store import SqlObjectStore
    from flwr.supercore.sql_mixin import SqlMixin
    from flwr.supercore.state.schema import objectstore_models as tables

    return {
        "session": SqlMixin.session,
        "preregister": SqlObjectStore.preregister,
        "get_object_tree": SqlObjectStore.get_object_tree,
        "put": SqlObjectStore.put,
        "get": SqlObjectStore.get,
        "delete": SqlObjectStore.delete,
        "_mutation_session": SqlObjectStore._mutation_session,
        "_lock": SqlObjectStore._lock_objectstore_mutation,
        "StoredObject": tables.StoredObject,
        "ObjectChild": tables.ObjectChild,
        "RunObject": tables.RunObject,
        "ObjectStoreLock": tables.ObjectStoreLock,
    }


def _apply() -> None:
    _register_parts()
    _keep_contents()


def _register_parts() -> None:
    from flwr.proto.message_pb2 import ObjectTree
    from flwr.supercore.inflatable.inflatable_object import (
        is_valid_sha256_hash,
        iterate_object_tree,
    )
    from flwr.supercore.object_store import NoObjectInStoreError
    from flwr.supercore.object_store.sql_object_store import SqlObjectStore
    from flwr.supercore.utils import uint64_to_int64

    def preregister(self: Any, run_id: int, object_tree: ObjectTree) -> list[str]:
        parts = list(iterate_object_tree(object_tree))
        for part in parts:
            if not is_valid_sha256_hash(part.object_id):
                raise ValueError(f"Invalid object ID format: {part.object_id}")
        with self._mutation_session():
            missing = [part.object_id for part in parts if register(self, part)]
            run = uint64_to_int64(run_id)
            execute_each(self, _ASSIGN, [(run, part.object_id) for part in parts])
        return missing

    def register(self: Any, part: ObjectTree) -> bool:
        """Note down a part, those below it being so; whether its content is missing."""
        name, children = part.object_id, [child.object_id for child in part.children]
        if len(children) != len(set(children)):
            raise ValueError(f"Object {name} has duplicate children.")
        if execute(self, _REGISTER, name):
            if children:
                execute_each(self, _JOIN, [(name, child) for child in children])
                execute_each(self, _HOLD, [(child,) for child in children])
            return True
        if {child for (child,) in execute(self, _CHILDREN, name)} != set(children):
            raise ValueError(f"Object {name} was preregistered with different children.")
        return not execute(self, _AVAILABLE, name)[0][0]

    def get_object_tree(self: Any, object_id: str) -> ObjectTree:
        with self.session():
            if not execute(self, _AVAILABLE, object_id):
                raise NoObjectInStoreError(f"Object {object_id} was not pre-registered.")
            children: dict[str, list[str]] = {}
            for parent, child in execute(self, _TREE, object_id):
                children.setdefault(parent, []).append(child)

        def tree(name: str) -> ObjectTree:
            return ObjectTree(object_id=name, children=map(tree, children.get(name, [])))

        return tree(object_id)

    store: Any = SqlObjectStore
    store.preregister, store.get_object_tree = preregister, get_object_tree


def _keep_contents() -> None:
    from flwr.supercore.inflatable.inflatable_object import get_object_id
    from flwr.supercore.inflatable.inflatable_utils import validate_object_content
    from flwr.supercore.object_store import NoObjectInStoreError
    from flwr.supercore.object_store.sql_object_store import SqlObjectStore

    def put(self: Any, object_id: str, object_content: bytes) -> None:
        if self.verify:
            if object_id != get_object_id(object_content):
                raise ValueError(f"Object ID {object_id} does not match content hash")
            validate_object_content(content=object_content)
        with self.session():
            execute(self, _STORE, object_content, object_id)
            if not execute(self, _AVAILABLE, object_id):
                raise NoObjectInStoreError(f"Object with ID '{object_id}' was not pre-registered.")

    def get(self: Any, object_id: str) -> bytes | None:
        found = execute(self, _CONTENT, object_id)
        return found[0][0] if found else None

    def delete(self: Any, object_id: str) -> None:
        with self._mutation_session():
            doomed = [object_id]
            while doomed:
                part = doomed.pop()
                children = [child for (child,) in execute(self, _CHILDREN, part)]
                if execute(self, _DELETE, part) and children:
                    execute_each(self, _RELEASE, [(child,) for child in children])
                    doomed += children

    def _lock_objectstore_mutation(self: Any) -> None:
        execute(self, _LOCK, self._MUTATION_LOCK_ID)

    store: Any = SqlObjectStore
    for function in (put, get, delete, _lock_objectstore_mutation):
        setattr(store, function.__name__, function)


ADAPTATION = Adaptation(
    name="objects",
    loss="a round with a database takes longer, for the parts of its messages",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
