"""Messages to many nodes and their replies: in order, with a deadline, and nobody waits twice.

The rule for slow and lost nodes is stated in ``common.config.RoundSettings``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from common.config import LATE_ROUNDS, RoundSettings
from common.wire import pack_all, size
from server_app.clients.registry import Nodes
from server_app.monitoring.status import Status
from server_app.transport.incomplete import forget, has_begun
from server_app.transport.polling import Unreadable, await_reply, pull
from server_app.transport.push import push
from server_app.validation.errors import printable

Notice = Callable[[str], None]

LOOK = 2.0
"""Seconds between two looks at who is online while a reply is awaited."""

LONG = 0.5
"""Share of the deadline after which the console says who is waited for."""


class Answer(NamedTuple):
    """What came of asking one client.

    Attributes
    ----------
    node: the node that was asked last; it may have been another than at first.
    message_id: of the message that it was asked with; empty if it had gone before.
    reply: without an error, but it may be unreadable; None if there is none.
    reason: why there is none.
    absent, seen: when the server looked in vain for the last time, and when it had the reply; Unix
        seconds of its own clock, 0 where it has not looked in vain.
    late: whether it has had its time.
    """

    client_id: int
    node: int
    message_id: str
    reply: Message | Unreadable | None
    reason: str
    absent: float = 0.0
    seen: float = 0.0
    late: bool = False

    def seconds(self, begun: float) -> float:
        """Seconds from ``begun`` (Unix, the server's clock) to the reply.

        Replies are taken in order, so that one may have come long before it was seen. Its own date
        is believed where the server's clock allows it.
        """
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


class Exchange:
    """Asks nodes and collects their replies; remembers who is still at work on what.

    Attributes
    ----------
    bytes_down: array bytes sent since the last ``ask``.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Nodes,
        rules: RoundSettings,
        status: Status,
        notice: Notice = lambda _: None,
    ) -> None:
        self._notice = notice
        self._grid = grid
        self._nodes = nodes
        self._rules = rules
        self._status = status
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
        self, round: int, kind: str, client_ids: Sequence[int], content: Callable[[int], Any]
    ) -> Iterator[Answer]:
        """Send every client its content at once; then give the answers one by one, in this order.

        Parameters
        ----------
        kind: Flower's message type, such as ``train.augfl``.
        content: client -> the contract to send; asked again if the content must be sent again.
        """
        self.bytes_down = 0
        self._sent = {}
        self._told.clear()
        self._post(round, kind, client_ids, content)
        deadline = time.monotonic() + self._rules.deadline
        return self._answers(round, kind, client_ids, content, deadline)

    def _answers(
        self,
        round: int,
        kind: str,
        client_ids: Sequence[int],
        content: Callable[[int], Any],
        deadline: float,
    ) -> Iterator[Answer]:
        for client_id in client_ids:
            answer = self._answer(round, kind, client_id, deadline)
            if answer.reason and self._there_again(client_id, answer.node, deadline):
                self._post(round, kind, [client_id], content)
                answer = self._answer(round, kind, client_id, deadline)
            yield answer

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
        contents = pack_all([content(client_id) for client_id in nodes])
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

    def _answer(self, round: int, kind: str, client_id: int, deadline: float) -> Answer:
        sent = self._sent.get(client_id)
        if sent is None:
            return Answer(client_id, self._nodes.last(client_id), "", None, "it has gone")

        what = f"{kind.partition('.')[0]} of round {round}"
        watch = _Watch(lambda: self._hopeless(sent, what, deadline))
        reply = await_reply(self._grid, sent.message_id, deadline, watch)
        self._status.await_node(None)
        if sent.node not in self._nodes.enrolled:
            reason = "another node has taken its place"
            return Answer(client_id, sent.node, sent.message_id, None, reason)
        if isinstance(reply, Unreadable) or (reply is not None and not reply.has_error()):
            self._status.node(sent.node, "online", seen=True)
            return Answer(
                client_id, sent.node, sent.message_id, reply, "", watch.absent, time.time()
            )
        if reply is not None or watch.found:
            forget(self._grid, sent.message_id)
            told = reply.error.reason if reply else watch.found
            reason = printable(told or "its ClientApp failed")
            self._nodes.discover()
            if sent.node in self._nodes.online:
                self._status.node(sent.node, "online", reason=reason, seen=True)
            return Answer(client_id, sent.node, sent.message_id, None, reason)
        until = time.monotonic() + (LATE_ROUNDS - 1) * self._rules.deadline
        self._late[sent.node] = _Late(sent, until, what)
        begun = has_begun(self._grid, sent.message_id)
        reason = ("no whole" if begun else "no") + f" reply within {self._rules.deadline:g} s"
        self._status.node(sent.node, "late", reason=f"{what}: {reason}")
        return Answer(client_id, sent.node, sent.message_id, None, reason, late=True)

    def _hopeless(self, sent: _Sent, what: str, deadline: float) -> str:
        """Why a reply will not come; empty where it may. Tells who is waited for."""
        self._nodes.discover()
        if self._restarted(sent):
            return "the node was restarted"
        begun, left = has_begun(self._grid, sent.message_id), deadline - time.monotonic()
        if begun and sent.node not in self._nodes.online:
            return "it went away before its reply was complete"
        doing = "has begun its reply and not completed it" if begun else "has not replied"
        self._status.await_node(sent.node, doing, time.time() + left)
        if (sent, begun) not in self._told and (begun or left < LONG * self._rules.deadline):
            self._told.add((sent, begun))
            name = self._nodes.name(sent.node)
            self._notice(f"{what}: {name} {doing}; the server waits at most {left:.0f} s more")
        return ""

    def _there_again(self, client_id: int, node: int, deadline: float) -> bool:
        """Whether a client that failed, but is not late, is taken again soon enough."""
        patience = self._rules.patience
        if not patience or node in self._late:
            return False
        end = min(deadline, time.monotonic() + patience)
        while True:
            if self._nodes.at(client_id) is not None:
                return time.monotonic() < deadline
            if time.monotonic() > end:
                return False
            time.sleep(0.5)
            self._nodes.discover()

    def _restarted(self, sent: _Sent) -> bool:
        return self._nodes.online.get(sent.node, sent.activated) != sent.activated


class _Watch:
    """Asks now and then why one should not wait any more.

    Attributes
    ----------
    found: the answer, once there was one.
    absent: when it was last said that nothing has come; Unix seconds.
    """

    def __init__(self, question: Callable[[], str]) -> None:
        self._question = question
        self._next = time.monotonic() + LOOK
        self.found = ""
        self.absent = 0.0

    def __call__(self) -> bool:
        self.absent = time.time()
        if not self.found and time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK
            self.found = self._question()
        return bool(self.found)
