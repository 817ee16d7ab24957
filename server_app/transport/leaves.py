"""A Grid whose devices may stand behind leaves.

To those above it, each device of a leaf is a node like any other: it is online, is sent messages
and answers them. In truth the messages of a leaf's devices travel as one (``common/leaf.py``), and
one reply has what came of all: replies as they are, or of replies to train the sum (``told``).
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from numpy.typing import NDArray

from common import leaf as wire
from common.errors import WireError
from common.tensors import Tensors
from common.trouble import is_trouble
from common.wire import from_bytes, pack, to_bytes, unpack
from server_app.transport.grid import WrappingGrid, arrived, forget, has_begun
from server_app.transport.polling import UNREADABLE, Unreadable, pull
from server_app.transport.told import Counted, Missing, Partial, Refused, Told

TYPE = f"query.{wire.KIND}"

LOOK = 2.0
"""Seconds between two questions to a leaf that has nothing to do: who is there."""

PATIENCE = 60.0
"""Seconds for an answer to it, or to an introduction."""

FAREWELL = 10.0
"""Seconds that the end of a run waits for leaves."""

SHARE = 0.9
"""Of the deadline, after which a leaf gives back what it has: the rest is for the way up."""

OURS = "by-leaf-"
"""Begins the name of a message to a device of a leaf, which Flower's SuperLink does not know."""

Brief = Callable[[Sequence[int]], Mapping[str, Any]]
Notice = Callable[[str], None]


@dataclass(eq=False)
class _Batch:
    """Messages that travel as one; the list is empty where it only asks who is there."""

    message_id: str
    messages: list[Message]


@dataclass(eq=False)
class _Leaf:
    """A leaf, its devices as it last told, and what it owes."""

    node: int
    name: str
    activated: str
    devices: dict[int, NodeInfo] = field(default_factory=dict)
    late: frozenset[int] = frozenset()
    batches: list[_Batch] = field(default_factory=list)
    looked: float = -LOOK
    complaint: str = ""


class LeafGrid(WrappingGrid):
    """See above.

    Attributes
    ----------
    brief: what leaves must know to look at replies to train, by the devices that are asked.
    """

    def __init__(
        self,
        inner: Grid,
        names: Collection[str],
        behind: Mapping[str, str],
        config: Mapping[str, Any],
        classes: int,
        token: str,
        deadline: float,
        notice: Notice,
    ) -> None:
        """Stand before a Grid.

        Parameters
        ----------
        names: under which the keys of leaves are registered.
        behind: registered name -> the leaf behind which the operator has put it; empty for none.
        config: the run's flat settings.
        classes: number of classes of the data set.
        token: of the run.
        deadline: of a round, seconds.
        """
        super().__init__(inner)
        self._names = frozenset(names)
        self._behind = dict(behind)
        self._config = json.dumps(dict(config))
        self._classes = classes
        self._token = token
        self._deadline = deadline
        self._notice = notice
        self._leaves: dict[int, _Leaf] = {}
        self._online: list[_Leaf] = []
        self._owners: dict[int, _Leaf] = {}
        self._sent: dict[str, tuple[_Leaf, _Batch, Message]] = {}
        self._told: dict[str, Told] = {}
        self._ready: dict[str, Message] = {}
        self._late: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self.brief: Brief = lambda nodes: {}

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online, without leaves, with those behind them."""
        self._collect()
        direct, self._online = [], []
        for node in self._inner.get_nodes():
            if node.name in self._names:
                self._online.append(self._known(node))
            else:
                direct.append(node)
        self._ask_who_is_there()
        return direct + [node for each in self._online for node in each.devices.values()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; those to devices of one leaf as one."""
        messages = list(messages)
        groups: dict[int, list[Message]] = {}
        for message in messages:
            if (owner := self._owners.get(message.metadata.dst_node_id)) is not None:
                name = f"{OURS}{next(self._numbers)}"
                message.metadata.__dict__["_message_id"] = name
                groups.setdefault(owner.node, []).append(message)
        direct = [m for m in messages if m.metadata.dst_node_id not in self._owners]
        downs = [self._down(group) for group in groups.values()]
        wrapped = [
            Message(pack(down), node, TYPE, ttl=group[0].metadata.ttl)
            for down, (node, group) in zip(downs, groups.items(), strict=True)
        ]
        ids = list(self._inner.push_messages([*direct, *wrapped]))
        if len(ids) != len(direct) + len(wrapped):
            return []
        for message_id, (node, group) in zip(ids[len(direct) :], groups.items(), strict=True):
            owner, batch = self._leaves[node], _Batch(message_id, group)
            owner.batches.append(batch)
            for message in group:
                self._sent[message.metadata.message_id] = owner, batch, message
        own = iter(ids)
        return [
            m.metadata.message_id if m.metadata.dst_node_id in self._owners else next(own)
            for m in messages
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there."""
        replies: list[Message] = []
        for message_id in message_ids:
            if message_id in self._ready:
                replies.append(self._ready.pop(message_id))
                self.forget(message_id)
            elif message_id in self._late:
                message = self._late[message_id]
                node = message.metadata.dst_node_id
                if node not in self._owners[node].late:  # nothing came of it, but it is free again
                    del self._late[message_id]
                    replies.append(_error(message, "it was late"))
            elif not message_id.startswith(OURS):
                replies += self._inner.pull_messages([message_id])
        return replies

    def told(self, message_id: str) -> Told | None:
        """What a leaf tells in the place of a reply."""
        found = self._told.pop(message_id, None)
        if found is not None:
            if isinstance(found, Missing) and found.late:
                self._late[message_id] = self._sent[message_id][2]
            self.forget(message_id, late=True)
        return found

    def leaf(self, node: int) -> str:
        """The name of the leaf behind which a node stands; empty if it stands behind none."""
        owner = self._owners.get(node)
        return owner.name if owner is not None else ""

    def arrived(self, message_ids: Sequence[str]) -> list[str]:
        """Messages whose replies may be there, in the order given."""
        self._collect()
        direct = [message_id for message_id in message_ids if not message_id.startswith(OURS)]
        there = {*arrived(self._inner, direct), *self._ready, *self._told}
        return [message_id for message_id in message_ids if message_id in there]

    def has_begun(self, message_id: str) -> bool:
        """Whether a reply has come in part."""
        sent = self._sent.get(message_id)
        return has_begun(self._inner, sent[1].message_id if sent else message_id)

    def forget(self, message_id: str, late: bool = False) -> None:
        """Drop what has come of a reply."""
        if not late:
            self._late.pop(message_id, None)
        for kept in (self._sent, self._told, self._ready):
            kept.pop(message_id, None)
        if not message_id.startswith(OURS):
            forget(self._inner, message_id)

    def end(self) -> None:
        """Tell the leaves that the run is over; waits shortly whether they have heard it."""
        self.get_nodes()
        down = pack(self._down([], wire.END))
        sent = [Message(down, each.node, TYPE, ttl=PATIENCE) for each in self._online]
        open_ids = {*self._inner.push_messages(sent)}
        end = time.monotonic() + FAREWELL
        while open_ids and time.monotonic() < end:
            for message_id in arrived(self._inner, [*open_ids]):
                if pull(self._inner, message_id) is not None:
                    open_ids.discard(message_id)
            time.sleep(0.1 if open_ids else 0)

    def _known(self, node: NodeInfo) -> _Leaf:
        found = self._leaves.get(node.node_id)
        if found is None:
            found = _Leaf(node.node_id, node.name, node.last_activated_at)
            self._leaves[node.node_id] = found
        elif found.activated != node.last_activated_at:  # what it was at is lost
            found.activated = node.last_activated_at
            for batch in found.batches:
                self._fail(batch, f"its leaf {found.name} was restarted")
            found.batches, found.late, found.looked = [], frozenset(), -LOOK
        return found

    def _ask_who_is_there(self) -> None:
        now = time.monotonic()
        idle = [each for each in self._online if not each.batches and now - each.looked >= LOOK]
        if not idle:
            return
        down = pack(self._down([]))
        sent = [Message(down, each.node, TYPE, ttl=PATIENCE) for each in idle]
        try:
            ids = list(self._inner.push_messages(sent))
        except (httpx.HTTPStatusError, ObjectPushError) as error:
            if isinstance(error, httpx.HTTPStatusError) and not is_trouble(error):
                raise
            return  # there is a next time
        for each, message_id in zip(idle, ids, strict=False):
            each.looked = now
            each.batches.append(_Batch(message_id, []))

    def _down(self, messages: Sequence[Message], kind: str = "") -> wire.Down:
        first = messages[0].metadata if messages else None
        kind = first.message_type if first else kind
        numbers: dict[int, int] = {}
        blobs: list[Any] = []
        content = []
        for message in messages:
            mine = []
            for name, record in message.content.items():
                if id(record) not in numbers:  # the same object is the same for all
                    numbers[id(record)] = len(blobs)
                    blobs.append(blob(RecordDict({name: record})))
                mine.append(str(numbers[id(record)]))
            content.append(" ".join(mine))
        nodes = [message.metadata.dst_node_id for message in messages]
        trains = kind.startswith("train.")
        return wire.Down(
            run=self._token,
            config=self._config,
            classes=self._classes,
            round=int(first.group_id or 0) if first else 0,
            kind=kind,
            seconds=min(PATIENCE if kind.startswith("query") else 10.0**6, SHARE * self._deadline),
            nodes=[str(node) for node in nodes],
            records=Tensors.pack({str(number): blob for number, blob in enumerate(blobs)}),
            content=content,
            brief=json.dumps(self.brief(nodes)) if trains else "",
        )

    def _collect(self) -> None:
        """Take in what leaves have answered."""
        owing = {b.message_id: (each, b) for each in self._leaves.values() for b in each.batches}
        for message_id in arrived(self._inner, [*owing]):
            reply = pull(self._inner, message_id)
            if reply is None:
                continue
            each, batch = owing[message_id]
            each.batches.remove(batch)
            if not isinstance(reply, Message) or reply.has_error():
                why = "it failed"
                if isinstance(reply, Unreadable):
                    why = reply.reason
                elif isinstance(reply, Message):
                    why = reply.error.reason or why
                self._complain(each, why)
                self._fail(batch, f"leaf {each.name}: {why}")
                continue
            try:
                self._take(each, batch, unpack(wire.Up, reply.content))
            except (WireError, *UNREADABLE) as error:
                self._complain(each, str(error))
                self._fail(batch, f"leaf {each.name} answers what cannot be read: {error}")

    def _take(self, each: _Leaf, batch: _Batch, up: wire.Up) -> None:
        each.complaint = ""
        since = each.activated
        each.devices = {
            int(node): NodeInfo(node_id=int(node), name=name, last_activated_at=f"{since} {came}")
            for node, name, came in zip(up.nodes, up.names, up.activated, strict=True)
            if self._belongs(int(node), name, each)
        }
        each.late = frozenset(map(int, up.late))
        self._owners |= dict.fromkeys(each.devices, each)
        notes = [json.loads(answer) for answer in up.answers]
        parts = up.sums.unpack() if up.sums is not None else {}
        partial = Partial(each.name, parts, sum("up" in note for note in notes))
        whole = up.content.unpack()
        for message, note in zip(batch.messages, notes, strict=True):
            message_id = message.metadata.message_id
            if message_id not in self._sent:
                continue
            if "whole" in note:
                content = from_bytes(whole[str(message.metadata.dst_node_id)].tobytes())
                self._ready[message_id] = Message(content, reply_to=message)
            else:
                self._told[message_id] = _read(note, partial)

    def _belongs(self, node: int, name: str, each: _Leaf) -> bool:
        """A device has the leaf that the operator has said, and one at a time."""
        if self._behind.get(name, each.name) != each.name:
            return False
        owner = self._owners.get(node)
        return owner is None or owner is each or node not in owner.devices

    def _fail(self, batch: _Batch, reason: str) -> None:
        for message in batch.messages:
            if message.metadata.message_id in self._sent:
                self._ready[message.metadata.message_id] = _error(message, reason)

    def _complain(self, each: _Leaf, why: str) -> None:
        if each.complaint != why:
            each.complaint = why
            self._notice(f"leaf {each.name}: {why}")


def with_leaves(grid: Grid, names: Collection[str], *more: Any) -> Grid:
    """``LeafGrid`` where there are leaves, else the Grid as it is."""
    return LeafGrid(grid, names, *more) if names else grid


def blob(content: RecordDict) -> NDArray[np.uint8]:
    """Records as they are, shape (n,)."""
    return np.frombuffer(to_bytes(content), np.uint8)


def write(told: Told) -> dict[str, Any]:
    """As JSON; of what is in a sum without the sum."""
    match told:
        case Counted():
            return {
                "up": dict(told.notes),
                "tensors": told.tensors,
                "sizes": told.sizes,
                "compared": told.compared,
                "found": told.found,
                "doubtful": told.doubtful,
                "seconds": told.seconds,
                "bytes": told.bytes,
            }
        case Refused():
            return {"field": told.field, "reason": told.reason, "excessive": told.excessive}
        case Missing():
            return {"missing": told.reason, "late": told.late}


def _read(note: Mapping[str, Any], partial: Partial) -> Told:
    if "up" in note:
        sizes, compared = (
            {str(name): float(size) for name, size in note[key].items()}
            for key in ("sizes", "compared")
        )
        return Counted(
            partial,
            note["up"],
            tuple(map(str, note["tensors"])),
            sizes,
            compared,
            {str(name): [*map(float, numbers)] for name, numbers in note["found"].items()},
            bool(note["doubtful"]),
            float(note["seconds"]),
            int(note["bytes"]),
        )
    if "field" in note:
        return Refused(str(note["field"]), str(note["reason"]), bool(note["excessive"]))
    return Missing(str(note["missing"]), bool(note["late"]))


def _error(message: Message, reason: str) -> Message:
    return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, reason), reply_to=message)


__all__ = ["LeafGrid", "blob", "with_leaves", "write"]
