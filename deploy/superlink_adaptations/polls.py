"""What idle devices cost: a short answer where nothing waits, and a word when to ask again.

Devices ask for messages. Flower 1.39 looks through its whole state at each such call, and its nodes
ask every 3 s whatever happens: 2,000 idle ones take all of a SuperLink. What changes:

- Who has nothing waiting is told so without a look. A message that is stored, or was when the
  SuperLink began, makes the next looks real ones until it is delivered.
- An answer without a message says how long to rest (in the field ``reconnect``, which is Flower's
  own and unused there; milliseconds): a tenth of the time since anybody was last sent something, up
  to 3 s, or in large fleets so long that all together ask 67 times a second, which is half a minute
  for 2,000; never beyond the time at which the next round is expected; and never so short that they
  ask more than 400 times a second. Where no run goes on, large fleets rest that long at once.
  ``deploy/fleet_calls.py`` reads it.

A round therefore begins for each device at most a tenth later than it could, in fleets of a size
for which 400 calls a second are enough to say so.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from deploy.adaptation import Adaptation

RATE = 400.0
"""Looks for messages a second, of all devices together; 0.2 s of CPU."""
IDLE_RATE = 67.0
"""The same, where nothing is to do."""
SHARE = 0.1
SHORTEST, PROMPT, LONGEST = 0.05, 3.0, 30.0
"""Seconds: at least, and at most, in a fleet of a few devices and in one of 2,000."""

FINGERPRINTS = {
    "PullMessages": "2a11e6bcee94d7f185d5423bb57a8bd9231744ad1ee1fca60365f840de571b58",
    "pull_messages": "63c87f5e7a6ca0549dcfaa6b5591ee8a0a70da15b602e424bc2e601f2cc7dc67",
    "store_message_ins": "a2b78afac51dc4a23d236ccf8d02958c8d0532aac179cd9ad9b1a0d939eecbea",
    "store_message_ins of SQL": "03ff7e13cf98ba01d8b70a6c55fc6b50ac9808839f2f8f45ccf61f98edb25ed6",
    "finish_task": "04677e11800934acb6f7b827d03db78a2575228bc265ef8a931a01586a0d3f3a",
    "finish_task of SQL": "5c23d1242db4b26e52412872e42faf16e1ef7aae3352be8adf40259f685bf9ec",
    "get_message_ins": "6547c8dcbc62e12f5b2aa5c69f4de8c7c7072c10d6c0876512cf37197d941056",
    "get_message_ins of SQL": "4299efc545e677d71946ae389dadd570a8dc835f85bdb97787f3a6a38e0aa9ac",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


class Waiting:
    """How many messages wait for each node; safe to use from several threads."""

    def __init__(self) -> None:
        self._stored: Counter[int] = Counter()
        self._count: dict[int, int] = {}  # of nodes for which it is known
        self._lock = threading.Lock()

    def nothing(self, node: int, count: Callable[[int], int]) -> bool:
        """Whether nothing waits for a node.

        Parameters
        ----------
        count: counts the messages for a node that were not delivered; asked where it is unknown.
        """
        with self._lock:
            if node in self._count:
                return self._count[node] <= 0
            before = self._stored[node]
        found = count(node)
        with self._lock:
            if before == self._stored[node]:
                self._count[node] = found
        return found <= 0

    def stored(self, node: int) -> None:
        """A message for a node is there."""
        with self._lock:
            self._stored[node] += 1
            if node in self._count:
                self._count[node] += 1

    def looked(self, node: int, delivered: int) -> None:
        """A node was given so many messages; where none was, the count is no longer believed."""
        with self._lock:
            if delivered and node in self._count:
                self._count[node] -= delivered
            else:
                self._count.pop(node, None)


class Pace:
    """How long devices should rest; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = self._round = clock()  # a message, and the first one of a round
        self._every: float | None = None  # seconds from the last round to the one before
        self._key: tuple[int, str] | None = None
        self._going_on = False
        self._seen: dict[int, float] = {}
        self._pruned = clock()
        self._lock = threading.Lock()

    def sent(self, run: int, group: str) -> None:
        """A message of a run was sent; ``group`` names its round, if it is of one."""
        with self._lock:
            now = self._last = self._clock()
            self._going_on = True
            if group and self._key != (run, group):
                same = self._key is not None and self._key[0] == run
                self._every = now - self._round if same else None
                self._round, self._key = now, (run, group)

    def ended(self) -> None:
        """A run has ended; if another goes on, its next message says so."""
        with self._lock:
            self._going_on, self._every, self._key = False, None, None

    def rest(self, node: int) -> float:
        """Seconds until a node should ask again."""
        with self._lock:
            now = self._clock()
            self._seen[node] = now
            if now - self._pruned > LONGEST:
                self._seen = {n: t for n, t in self._seen.items() if now - t < 2 * LONGEST}
                self._pruned = now
            wait = SHARE * (now - self._last)
            if self._every is not None:
                expected = self._round + self._every - now
                wait = min(wait, expected if expected > 0 else -SHARE * expected)
            shortest = max(SHORTEST, len(self._seen) / RATE)
            longest = min(LONGEST, max(PROMPT, len(self._seen) / IDLE_RATE))
            if not self._going_on and longest > PROMPT:
                wait = longest
            return max(shortest, min(wait, longest))


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
    from flwr.server.superlink.fleet.message_handler import message_handler
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    return {
        "PullMessages": FleetServicer.PullMessages,
        "pull_messages": message_handler.pull_messages,
        "store_message_ins": InMemoryLinkState.store_message_ins,
        "store_message_ins of SQL": SqlLinkState.store_message_ins,
        "finish_task": InMemoryLinkState.finish_task,
        "finish_task of SQL": SqlLinkState.finish_task,
        "get_message_ins": InMemoryLinkState.get_message_ins,
        "get_message_ins of SQL": SqlLinkState.get_message_ins,
    }


def _undelivered(state: Any, node: int) -> int:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.utils import uint64_to_int64

    if isinstance(state, SqlLinkState):
        found = state.query(
            "SELECT COUNT(*) AS number FROM message_ins "
            "WHERE dst_node_id = :node AND delivered_at = '' AND created_at + ttl > :now",
            {"node": uint64_to_int64(node), "now": time.time()},
        )
        return int(found[0]["number"])
    with state.lock:
        stored = [message.metadata for message in state.message_ins_store.values()]
    return sum(
        data.dst_node_id == node and data.delivered_at == ""
        and data.created_at + data.ttl > time.time()
        for data in stored
    )  # fmt: skip


def _apply() -> None:
    from flwr.proto.fleet_pb2 import PullMessagesResponse
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    waiting, pace, pull = Waiting(), Pace(), FleetServicer.PullMessages

    def PullMessages(self: Any, request: Any, context: Any) -> Any:
        node = request.node.node_id
        if waiting.nothing(node, lambda node: _undelivered(self.state_factory.state(), node)):
            answer = PullMessagesResponse()
        else:
            answer = pull(self, request, context)
            waiting.looked(node, len(answer.messages_list))
        if not answer.messages_list:
            answer.reconnect.reconnect = round(1000 * pace.rest(node))
        return answer

    def announce(store: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def store_message_ins(self: Any, message: Any) -> Any:
            stored = store(self, message)
            if stored is not None:
                waiting.stored(message.metadata.dst_node_id)
                pace.sent(message.metadata.run_id, message.metadata.group_id)
            return stored

        return store_message_ins

    def ending(finish: Callable[..., bool]) -> Callable[..., bool]:
        def finish_task(self: Any, *args: Any, **kwargs: Any) -> bool:
            pace.ended()
            return finish(self, *args, **kwargs)

        return finish_task

    servicer: Any = FleetServicer
    servicer.PullMessages = PullMessages
    for state in (InMemoryLinkState, SqlLinkState):
        kind: Any = state
        kind.store_message_ins = announce(kind.store_message_ins)
        kind.finish_task = ending(kind.finish_task)


ADAPTATION = Adaptation(
    name="polls",
    loss="idle devices cost the SuperLink more, and 1,000 of them all that it has",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
