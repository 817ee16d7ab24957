"""Messages to many nodes and their replies: as they come, with a deadline, nobody waits twice.

The rule for slow and lost nodes is stated in ``common.config.RoundSettings``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.config import LATE_ROUNDS, RoundSettings
from common.wire import pack_all, size
from server_app.monitoring.status import Status
from server_app.transport.grid import arrived, forget, has_begun
from server_app.transport.polling import Unreadable, pull
from server_app.transport.push import push
from server_app.transport.told import Counted, Missing, Refused, Told
from server_app.validation.errors import printable

Notice = Callable[[str], None]

LOOK = 2.0
"""Seconds between two looks at who is online while a reply is awaited."""

REST = 20.0
"""Times as long as such a look took, until the next one: with many nodes it is long."""

RETURNED = 0.5
"""The same, while a client that failed may come back."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two looks at what has come."""

REPLACED = "another node has taken its place"

LONG = 0.5
"""Share of the deadline after which the console says who is waited for."""


class Whereabouts(Protocol):
    """Who is where; see ``server_app/clients/registry.py``."""

    @property
    def online(self) -> Mapping[int, str]:
        """Node -> when it came online."""

    @property
    def enrolled(self) -> Container[int]:
        """Nodes whose answers are wanted."""

    def at(self, client_id: int) -> int | None:
        """The node in a client; None if it was not online at the last look."""

    def last(self, client_id: int) -> int:
        """The node that was in a client last."""

    def name(self, node: int) -> str:
        """What people call a node."""

    def discover(self) -> None:
        """Look who is there."""


Reply = Message | Unreadable | Counted | Refused


class Answer(NamedTuple):
    """What came of asking one client.

    Attributes
    ----------
    node: the node that was asked last; it may have been another than at first.
    message_id: of the message that it was asked with; empty if it had gone before.
    reply: without an error, but it may be unreadable, or in a leaf's sum or rejected by it; None if
        there is none.
    reason: why there is none.
    absent, seen: when the server looked in vain for the last time, and when it had the reply; Unix
        seconds of its own clock, 0 where it has not looked in vain.
    late: whether it has had its time.
    """

    client_id: int
    node: int
    message_id: str
    reply: Reply | None
    reason: str
    absent: float = 0.0
    seen: float = 0.0
    late: bool = False

    def seconds(self, begun: float) -> float:
        """Seconds from ``begun`` (Unix, the server's clock) to the reply.

        One may have come long before it was seen, as they are taken one by one. Its own date is
        believed where the server's clock allows it.
        """
        if isinstance(self.reply, Counted):
            return self.reply.seconds
        created = self.seen
        if isinstance(self.reply, Message):
            created = self.reply.metadata.created_at
        possible = max(self.absent, begun) <= created <= self.seen
        return max(0.0, (created if possible else self.seen) - begun)


@dataclass(frozen=True)
class _Sent:
    node: int
    message_id: str
    activated: str  # a node that comes online again has lost what it was working on


@dataclass(frozen=True)
class _Late:
    sent: _Sent
    until: float
    what: str


@dataclass(frozen=True)
class _Asked:
    """What was asked of clients, and who still owes an answer.

    Attributes
    ----------
    open: clients without an answer, in order.
    lost: of these, those that failed -> how, and until when it is waited whether they are back.
    again: clients that have failed in it.
    absent: client -> when it was looked in vain for its reply, Unix seconds.
    """

    round: int
    kind: str
    content: Callable[[int], Any]
    open: dict[int, None]
    deadline: float
    seconds: float
    lost: dict[int, tuple[Answer, float]] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    absent: dict[int, float] = field(default_factory=dict)

    @property
    def what(self) -> str:
        return f"{self.kind.partition('.')[0]} of round {self.round}"


class Exchange:
    """Asks nodes and collects their replies; remembers who is still at work on what.

    Attributes
    ----------
    bytes_down: array bytes sent since the last ``ask``.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Whereabouts,
        rules: RoundSettings,
        status: Status,
        notice: Notice = lambda _: None,
        pack: Callable[[Sequence[Any]], list[RecordDict]] = pack_all,
    ) -> None:
        """Begin.

        Parameters
        ----------
        pack: what is asked of clients -> what they are sent.
        """
        self._notice = notice
        self._grid = grid
        self._nodes = nodes
        self._rules = rules
        self._status = status
        self._pack = pack
        self._late: dict[int, _Late] = {}
        self._sent: dict[int, _Sent] = {}
        self._told: set[tuple[_Sent, bool]] = set()
        self.bytes_down = 0

    @property
    def run_id(self) -> int:
        """Flower's id of the run."""
        return self._grid.run.run_id

    def free(self, client_ids: Sequence[int]) -> tuple[list[int], list[dict[str, str]]]:
        """The clients that are not at work on an old message, and entries on those that are.

        Call it after a look at who is online.
        """
        for node, late in list(self._late.items()):
            if (
                pull(self._grid, late.sent.message_id) is not None  # dropped
                or self._restarted(late.sent)
                or time.monotonic() > late.until
            ):
                del self._late[node]
                forget(self._grid, late.sent.message_id)
                if node in self._nodes.online:
                    self._status.node(node, "online", seen=True)
        free, entries = [], []
        for client_id in client_ids:
            there = self._nodes.at(client_id)
            if there is not None and there in self._late:
                reason = f"not asked: it is late with {self._late[there].what}"
                entries.append({"node": str(there), "reason": reason})
            else:
                free.append(client_id)
        return free, entries

    def ask(
        self,
        round: int,
        kind: str,
        client_ids: Sequence[int],
        content: Callable[[int], Any],
        in_order: Callable[[], bool] = lambda: False,
        seconds: float = math.inf,
    ) -> Iterator[Answer]:
        """Send every client its content at once; then give the answers one by one, as they come.

        Parameters
        ----------
        kind: Flower's message type, such as ``train.augfl``.
        content: client -> the contract to send; asked again if the content must be sent again.
        in_order: whether the next answer must be that of the first of these clients without one.
        seconds: to wait for answers, where that is less than the deadline of a round.
        """
        self.bytes_down = 0
        self._sent = {}
        self._told.clear()
        self._post(round, kind, client_ids, content)
        seconds = min(seconds, self._rules.deadline)
        deadline = time.monotonic() + seconds
        asked = _Asked(round, kind, content, dict.fromkeys(client_ids), deadline, seconds)
        return self._answers(asked, in_order)

    def _answers(self, asked: _Asked, in_order: Callable[[], bool]) -> Iterator[Answer]:
        pause, look = FIRST_PAUSE, time.monotonic() + LOOK
        while asked.open:
            over, came = time.monotonic() >= asked.deadline, False
            turn = [next(iter(asked.open))] if in_order() else [*asked.open]
            for answer in self._settled(asked, turn, over):
                came = True
                if not self._may_return(asked, answer):
                    del asked.open[answer.client_id]
                    self._status.await_node(None)
                    yield answer
            if (begun := time.monotonic()) >= look:
                self._nodes.discover()
                self._tell(asked)
                took = time.monotonic() - begun
                look = begun + took + max(RETURNED if asked.lost else LOOK, REST * took)
            self._ask_again(asked)
            if asked.open and not came:
                time.sleep(min(pause, max(0.0, asked.deadline - time.monotonic())))
            pause = FIRST_PAUSE if came else min(2 * pause, LONGEST_PAUSE)

    def _settled(self, asked: _Asked, turn: Sequence[int], over: bool) -> Iterator[Answer]:
        """What there is to say of clients whose turn it is; of all of them if it is ``over``."""
        looked = time.time()
        waiting: dict[str, tuple[int, _Sent]] = {}
        for client_id in turn:
            if client_id in asked.lost:
                answer, until = asked.lost[client_id]
                if over or time.monotonic() > until:
                    del asked.lost[client_id]
                    yield answer
            elif (sent := self._sent.get(client_id)) is None:
                yield Answer(client_id, self._nodes.last(client_id), "", None, "it has gone")
            else:
                waiting[sent.message_id] = client_id, sent
        for message_id in arrived(self._grid, [*waiting]):
            if (reply := pull(self._grid, message_id)) is not None:
                client_id, sent = waiting.pop(message_id)
                if isinstance(reply, Missing):  # the leaf has waited whether it is back
                    asked.again.add(client_id)
                yield self._answer(asked, client_id, sent, reply)
        for client_id, sent in waiting.values():
            if reason := self._hopeless(sent):
                yield self._failed(client_id, sent, reason)
            elif over:
                yield self._late_answer(client_id, sent, asked)
            asked.absent[client_id] = looked

    def _post(
        self, round: int, kind: str, client_ids: Sequence[int], content: Callable[[int], Any]
    ) -> None:
        for client_id in client_ids:
            self._sent.pop(client_id, None)
        nodes = {
            client_id: node
            for client_id in client_ids
            if (node := self._nodes.at(client_id)) is not None
        }
        contents = self._pack([content(client_id) for client_id in nodes])
        # Longer than the deadline: a reply expires with its message, and replies wait their turn.
        limit = LATE_ROUNDS * self._rules.deadline

        def write() -> list[Message]:
            return [
                Message(content, node, kind, ttl=limit, group_id=str(round))
                for node, content in zip(nodes.values(), contents, strict=True)
            ]

        self.bytes_down += sum(map(size, contents))
        for (client_id, node), message_id in zip(
            nodes.items(), push(self._grid, write), strict=True
        ):
            if message_id:
                self._sent[client_id] = _Sent(node, message_id, self._nodes.online[node])
                self._status.node(node, "training")

    def _answer(
        self, asked: _Asked, client_id: int, sent: _Sent, reply: Message | Unreadable | Told
    ) -> Answer:
        absent = asked.absent.get(client_id, 0.0)
        if sent.node not in self._nodes.enrolled:
            return Answer(client_id, sent.node, sent.message_id, None, REPLACED)
        if isinstance(reply, Missing):
            if reply.late:
                return self._late_answer(client_id, sent, asked, reply.reason)
            return self._failed(client_id, sent, reply.reason)
        if not isinstance(reply, Message) or not reply.has_error():
            self._status.node(sent.node, "online", seen=True)
            return Answer(client_id, sent.node, sent.message_id, reply, "", absent, time.time())
        return self._failed(client_id, sent, reply.error.reason or "its ClientApp failed")

    def _failed(self, client_id: int, sent: _Sent, why: str) -> Answer:
        forget(self._grid, sent.message_id)
        reason = printable(why)
        self._nodes.discover()
        if sent.node in self._nodes.online:
            self._status.node(sent.node, "online", reason=reason, seen=True)
        return Answer(client_id, sent.node, sent.message_id, None, reason)

    def _late_answer(self, client_id: int, sent: _Sent, asked: _Asked, reason: str = "") -> Answer:
        until = time.monotonic() + (LATE_ROUNDS - 1) * self._rules.deadline
        self._late[sent.node] = _Late(sent, until, asked.what)
        begun = has_begun(self._grid, sent.message_id)
        reason = printable(reason) or (
            ("no whole" if begun else "no") + f" reply within {asked.seconds:g} s"
        )
        self._status.node(sent.node, "late", reason=f"{asked.what}: {reason}")
        return Answer(client_id, sent.node, sent.message_id, None, reason, late=True)

    def _hopeless(self, sent: _Sent) -> str:
        """Why a reply will not come; empty where it may."""
        if sent.node not in self._nodes.enrolled:
            return REPLACED
        if self._restarted(sent):
            return "the node was restarted"
        if sent.node not in self._nodes.online and has_begun(self._grid, sent.message_id):
            return "it went away before its reply was complete"
        return ""

    def _tell(self, asked: _Asked) -> None:
        """Say who is waited for: the first client without an answer."""
        sent = next((self._sent[client] for client in asked.open if client in self._sent), None)
        if sent is None:
            return
        begun, left = has_begun(self._grid, sent.message_id), asked.deadline - time.monotonic()
        doing = "has begun its reply and not completed it" if begun else "has not replied"
        self._status.await_node(sent.node, doing, time.time() + left)
        if (sent, begun) not in self._told and (begun or left < LONG * self._rules.deadline):
            self._told.add((sent, begun))
            name = self._nodes.name(sent.node)
            self._notice(
                f"{asked.what}: {name} {doing}; the server waits at most {left:.0f} s more"
            )

    def _may_return(self, asked: _Asked, answer: Answer) -> bool:
        """Whether a client that failed, but is not late, is waited for to be asked once more."""
        if (
            not answer.reason
            or not self._rules.return_timeout
            or answer.node in self._late
            or answer.client_id in asked.again
        ):
            return False
        asked.again.add(answer.client_id)
        until = min(asked.deadline, time.monotonic() + self._rules.return_timeout)
        asked.lost[answer.client_id] = answer, until
        return True

    def _ask_again(self, asked: _Asked) -> None:
        there = [client for client in asked.lost if self._nodes.at(client) is not None]
        if there and time.monotonic() < asked.deadline:
            for client_id in there:
                del asked.lost[client_id]
            self._post(asked.round, asked.kind, there, asked.content)

    def _restarted(self, sent: _Sent) -> bool:
        return self._nodes.online.get(sent.node, sent.activated) != sent.activated
