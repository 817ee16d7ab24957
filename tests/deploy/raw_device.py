"""A device that speaks the Fleet API itself, so that it can do what no honest SuperNode does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import grpc
from flwr.app import Context, Message, RecordDict
from flwr.client.grpc_rere_client.connection import grpc_request_response
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.retry import make_simple_grpc_retry_invoker
from flwr.supercore.task_identity import TaskIdentity

from client_app.app import app
from deploy.run_config import default_config


class RawDevice:
    """Plays one client honestly, but for the messages of one kind.

    Attributes
    ----------
    refusals: what the SuperLink said to what it would not take.
    answered: kinds of the messages that were answered, as ``train`` or ``query``.
    """

    def __init__(
        self,
        address: str,
        node_config: Mapping[str, Any],
        run_config: Mapping[str, Any],
        *,
        heads_only: str = "",
        floods: str = "",
    ) -> None:
        """Prepare.

        Parameters
        ----------
        heads_only: kind of the messages whose replies come without their parts.
        floods: kind of the messages whose replies name 20,000 parts.
        """
        self.refusals: list[str] = []
        self.answered: list[str] = []
        self._address, self._config = address, dict(node_config)
        self._run_config = default_config() | dict(run_config)
        self._heads_only, self._floods = heads_only, floods
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> RawDevice:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join(20)

    def _live(self) -> None:
        with grpc_request_response(self._address, True, make_simple_grpc_retry_invoker()) as (
            node,
            receive,
            send,
            _,
            _,
            pull,
            push,
            confirm,
        ):
            while not self._leaving.wait(0.1):
                if (found := receive()) is None:
                    continue
                head, tree = found
                run = head.metadata.run_id
                names = [part.object_id for part in iterate_object_tree(tree)]
                parts = pull_objects(names, lambda name, run=run: pull(run, name))  # type: ignore[misc]
                confirm(run, tree.object_id)
                message: Any = inflate_object_from_contents(tree.object_id, parts)
                message.metadata.__dict__["_message_id"] = tree.object_id
                self._answer(message, node, send, push)

    def _answer(self, message: Message, node: int, send: Any, push: Any) -> None:
        kind, run = message.metadata.message_type.partition(".")[0], message.metadata.run_id
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, 1
        context = Context(run, node, self._config, RecordDict(), self._run_config, 0)
        reply = app(message, context)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        tree = get_object_tree(reply)
        if kind == self._floods:
            made_up = (hashlib.sha256(str(n).encode()).hexdigest() for n in range(20_000))
            tree.children.extend(ObjectTree(object_id=name) for name in made_up)
        objects = get_all_nested_objects(reply)
        try:
            missing, session = send(reply, tree, 0.0)
        except grpc.RpcError as error:
            self.refusals.append(f"{error.code().name}: {error.details()}")
            return
        self.answered.append(kind)
        if kind not in (self._heads_only, self._floods):
            push_objects(
                objects,
                lambda name, content: push(run, session, name, content),
                object_ids_to_push=missing,
            )
