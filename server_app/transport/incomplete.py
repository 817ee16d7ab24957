"""Flower's ``Grid`` over the network, for a round that has a deadline and a SuperLink that may err.

Messages travel in parts, and a reply's head is visible before its parts have come. Flower 1.39
fetches a reply in one call, which waits for the parts until the sender's push session ends, three
minutes after its last one; the head is given out only once, so that a call that is cut short loses
the reply. Here a call takes what has come, keeps it, and returns at once. It is meant only for a
function that is, content for content, the one it was written for, which ``adaptable`` tells.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import httpx
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid import HttpGrid

from common.errors import FleetError
from common.trouble import is_trouble
from server_app.transport.grid import WrappingGrid

if TYPE_CHECKING:
    from flwr.proto.message_pb2 import ObjectTree

FINGERPRINTS = {
    "pull_messages": "67a5266a5a2ed51557437a15ef4c8844f46576bc5bb6b0753d2a2f6230a3aa83",
    "pull_objects": "31bb2de46b450e6acfadb7a8bb15e3f2074bb112199826a40a5eaa648bad5b2b",
}
"""SHA-256 of the source of the functions that are replaced or relied upon (flwr 1.39.0)."""

LONGEST_TROUBLE = 300.0
"""Seconds of nothing but errors from the SuperLink after which a run ends."""

MOST_PARTS = 10_000
"""Parts of a reply, more than a model of 40 GB has; nothing is fetched of one that names more."""


def differences() -> list[str]:
    """Names of the functions whose source is not the one that this was written for."""
    found: dict[str, Callable[..., Any]] = {
        "pull_messages": HttpGrid.pull_messages,
        "pull_objects": pull_objects,
    }
    return [
        name
        for name, function in found.items()
        if hashlib.sha256(inspect.getsource(function).encode()).hexdigest() != FINGERPRINTS[name]
    ]


class _Begun:
    """A reply whose head has come, with those of its parts that have."""

    def __init__(self, name: str, tree: ObjectTree) -> None:
        self.name = name
        self.names = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        self.contents: dict[str, bytes] = {}
        self.lost = ""


class TolerantGrid(WrappingGrid):
    """A Grid whose calls neither wait for a device nor end a run for one error of the SuperLink.

    ``pull_messages`` returns the replies that have come as a whole. ``get_nodes`` says what was
    known last where the SuperLink fails to answer.
    """

    def __init__(self, inner: Grid, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(inner)
        self._clock = clock
        self._http = inner if isinstance(inner, HttpGrid) and not differences() else None
        self._begun: dict[str, _Begun] = {}
        self._known: list[NodeInfo] = []
        self._troubled: float | None = None

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online, as the SuperLink last told.

        Raises
        ------
        FleetError: it has told nothing but errors for long.
        """
        try:
            self._known = list(self._inner.get_nodes())
            self._troubled = None
        except httpx.HTTPStatusError as error:
            if not is_trouble(error):
                raise
            if self._troubled is None:
                self._troubled = self._clock()
            if self._clock() - self._troubled > LONGEST_TROUBLE:
                raise given_up(error) from error
        return self._known

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come as a whole; one that was lost on its way as an error."""
        replies: list[Message] = []
        for message_id in message_ids:
            try:
                if self._http is None:
                    replies += self._inner.pull_messages([message_id])
                elif (reply := self._pull(self._http, message_id)) is not None:
                    replies.append(reply)
            except httpx.HTTPStatusError as error:
                if not is_trouble(error):
                    raise
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, and pull once; who wants to wait pulls again."""
        return self.pull_messages(self.push_messages(messages))

    def arrived(self, message_ids: Sequence[str]) -> list[str]:
        """Those messages whose replies have come, if only in part; asked for with one call."""
        if self._http is None:
            return list(message_ids)
        unknown = [message_id for message_id in message_ids if message_id not in self._begun]
        try:
            if unknown:
                self._look(self._http, unknown)
        except httpx.HTTPStatusError as error:
            if not is_trouble(error):
                raise
        return [message_id for message_id in message_ids if message_id in self._begun]

    def _look(self, grid: HttpGrid, message_ids: Sequence[str]) -> None:
        answer = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        for head, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            # The SuperLink has found it by this field, whoever has written it.
            asked = head.metadata.reply_to_message_id
            self._begun[asked] = _Begun(head.metadata.message_id, tree)

    def has_begun(self, message_id: str) -> bool:
        """Whether a reply has come in part."""
        return message_id in self._begun

    def forget(self, message_id: str) -> None:
        """Drop what has come of a reply."""
        self._begun.pop(message_id, None)

    def _pull(self, grid: HttpGrid, message_id: str) -> Message | None:
        if message_id not in self._begun:
            self._look(grid, [message_id])
        begun = self._begun.get(message_id)
        if begun is None:
            return None
        if len(begun.names) > MOST_PARTS:
            self.forget(message_id)
            raise ValueError(f"it names {len(begun.names)} parts; {MOST_PARTS} are possible")
        if not self._complete(grid, begun):
            return None
        if begun.lost:
            self.forget(message_id)
            return _lost(grid, message_id, begun.lost)
        grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=grid.node, run_id=grid.run.run_id, message_object_id=begun.name
            )
        )
        self.forget(message_id)
        reply = cast(Message, inflate_object_from_contents(begun.name, begun.contents))
        reply.metadata.__dict__["_message_id"] = begun.name
        return reply

    def _complete(self, grid: HttpGrid, begun: _Begun) -> bool:
        """Fetch the parts that have come; whether nothing more is to be waited for."""
        fetch = make_pull_object_fn_protobuf(
            grid._runtime_client.PullObject, grid.node, grid.run.run_id
        )

        def part(name: str) -> bytes:
            if name not in begun.contents:
                try:
                    begun.contents[name] = fetch(name)
                except ObjectUnavailableError:
                    raise
                except ObjectPullError as error:
                    begun.lost = str(error)
                    raise
            return begun.contents[name]

        try:
            pull_objects(begun.names, part, max_tries_per_object=1)
        except ObjectPullError:
            return bool(begun.lost)
        return True


def _lost(grid: HttpGrid, message_id: str, why: str) -> Message:
    """An error in the place of a reply, as Flower makes one."""
    server = grid.node.node_id
    metadata = Metadata(
        run_id=grid.run.run_id,
        message_id="",
        src_node_id=server,
        dst_node_id=server,
        reply_to_message_id=message_id,
        group_id="",
        created_at=now().timestamp(),
        ttl=0,
        message_type=SYSTEM_MESSAGE_TYPE,
    )
    reason = f"its reply was not completed: {why}"
    return make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, reason))


def given_up(error: Exception) -> FleetError:
    """The end of a run whose SuperLink has failed for long."""
    return FleetError(
        f"the SuperLink has answered with nothing but errors for {LONGEST_TROUBLE:.0f} s; the last "
        f"checkpoint is kept, resume the run when it is well: {error}"
    )
