"""Flower's ``Grid`` in one process: the same shells and the same wire, without a network.

Messages are serialised to protobuf and back, so that what a device gets is what a network would
bring, and each node keeps its own context between messages, as a SuperNode does. Nodes work one
after the other, each with one thread, so that results do not depend on the number of cores; a reply
is dated as if its node had begun when the message was sent, as all would on machines of their own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from threadpoolctl import ThreadpoolController

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
    node_configs: one node each; node ids count from ``first``.
    run_config: the run's, of which nodes get what a fleet's are sent.
    interfere: lets tests lose, delay or corrupt replies.
    first: the first node's id.
    names: under which the keys of the first nodes are registered.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Mapping[str, Any]],
        run_config: Mapping[str, Any],
        run_id: int = RUN,
        interfere: Interference | None = None,
        first: int = FIRST_NODE,
        names: Sequence[str] = (),
    ) -> None:
        # A message takes its sender from the process, which Flower's runtime would set.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER, 1
        self._app = client_app
        self._interfere = interfere
        self._run_id = run_id
        self._counter = itertools.count(1)
        self._pools = ThreadpoolController()
        self._waiting: dict[str, Message] = {}
        self.contexts = {
            node: Context(run_id, node, dict(config), RecordDict(), for_devices(run_config), 0)
            for node, config in enumerate(node_configs, first)
        }
        self._names = dict(zip(self.contexts, names, strict=False))

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

    def get_nodes(self) -> Iterable[NodeInfo]:
        """All nodes, with the names of those that have one."""
        return [NodeInfo(node_id=n, name=self._names.get(n, "")) for n in self.contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; nothing runs before the replies are pulled."""
        ids = []
        for message in messages:
            message_id = f"in-process-{next(self._counter)}"
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message
            ids.append(message_id)
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
        reply, took = self._reply(message)
        reply.metadata.__dict__["_created_at"] = message.metadata.created_at + took
        return self._interfere(message, reply) if self._interfere else reply

    def _reply(self, message: Message) -> tuple[Message, float]:
        """A node's reply, and how long it worked, seconds."""
        reply, took = self._play(serialised(message))
        return deserialised(reply), took

    def _play(self, content: bytes) -> tuple[bytes, float]:
        """Run the node that a message is for; both messages as they travel."""
        message, begun = deserialised(content), time.perf_counter()
        try:
            with self._one_thread():
                reply = serialised(self._app(message, self.contexts[message.metadata.dst_node_id]))
        except Exception as error:  # what a SuperNode does with any error of its ClientApp
            reply = serialised(failure(f"{type(error)}:<{error!r}>", message))
        return reply, time.perf_counter() - begun

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        before = torch.get_num_threads()
        with self._pools.limit(limits=1):
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(before)


def failure(reason: str, message: Message) -> Message:
    """What comes in the place of a reply."""
    return Message(Error(2, reason), reply_to=message)


def serialised(message: Message) -> bytes:
    """A message as it travels."""
    return bytes(message_to_proto(message).SerializeToString())


def deserialised(content: bytes) -> Message:
    """What comes of it."""
    return message_from_proto(ProtoMessage.FromString(content))
