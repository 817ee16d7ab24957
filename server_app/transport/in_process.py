"""Flower's ``Grid`` in one process: the same shells and the same wire, without a network.

Messages are serialised to protobuf and back, so that what a device gets is what a network would
bring, and each node keeps its own context between messages, as a SuperNode does. Nodes work one
after the other; a reply is dated as if its node had begun when the message was sent, as all would
on machines of their own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.config import for_devices
from server_app.transport.grid import PullingGrid

Interference = Callable[[Message, Message], Message | None]
"""(message, reply) -> what arrives of the reply; ``None`` if nothing does."""


SERVER = 1
"""Flower's node id of the server."""

RUN = 1
"""Flower's id of a simulated run; a SuperLink draws ids of 63 bits."""

FIRST_NODE = 101


class InProcessGrid(PullingGrid):
    """Nodes that run a ClientApp when their reply is pulled.

    Parameters
    ----------
    client_app: what every node runs.
    node_configs: one node each; node ids count from ``FIRST_NODE``.
    run_config: the run's, of which nodes get what a fleet's are sent.
    interfere: lets tests lose, delay or corrupt replies.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Mapping[str, Any]],
        run_config: Mapping[str, Any],
        run_id: int = RUN,
        interfere: Interference | None = None,
    ) -> None:
        # A message takes its sender from the process, which Flower's runtime would set.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER, 1
        self._app = client_app
        self._interfere = interfere
        self._run_id = run_id
        self._counter = itertools.count(1)
        self._waiting: dict[str, Message] = {}
        self.contexts = {
            node: Context(run_id, node, dict(config), RecordDict(), for_devices(run_config), 0)
            for node, config in enumerate(node_configs, FIRST_NODE)
        }

    def set_run(self, run: Run) -> None:
        """A run is given at construction."""
        raise NotImplementedError("the run is given at construction")

    @property
    def run(self) -> Run:
        """The run, with nothing but its id."""
        return Run.create_empty(self._run_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes are always there."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; nothing runs before the replies are pulled."""
        ids = []
        for message in messages:
            copy = _through_protobuf(message)
            copy.metadata.__dict__["_message_id"] = f"in-process-{next(self._counter)}"
            self._waiting[copy.metadata.message_id] = copy
            ids.append(copy.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the addressed nodes and return what arrives of their replies."""
        replies = []
        for message_id in message_ids:
            message = self._waiting.pop(message_id, None)
            reply = self._answer(message) if message else None
            if reply is not None:
                replies.append(reply)
        return replies

    def _answer(self, message: Message) -> Message | None:
        node, begun = message.metadata.dst_node_id, time.perf_counter()
        try:
            reply = _through_protobuf(self._app(message, self.contexts[node]))
        except Exception as error:  # what a SuperNode does with any error of its ClientApp
            reply = Message(Error(2, f"{type(error)}:<{error!r}>"), reply_to=message)
        took = time.perf_counter() - begun
        reply.metadata.__dict__["_created_at"] = message.metadata.created_at + took
        return self._interfere(message, reply) if self._interfere else reply


def _through_protobuf(message: Message) -> Message:
    proto = ProtoMessage.FromString(message_to_proto(message).SerializeToString())
    return message_from_proto(proto)
