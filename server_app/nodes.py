"""Who is there: nodes introduce themselves before they take part, whenever they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from common import enrolment
from common.errors import FleetError, WireError
from common.wire import pack, unpack
from server_app.transport.ordered import collect

Notice = Callable[[str], None]

RETRY_AFTER = 15.0
"""Seconds before a node that failed to introduce itself is asked again."""


@dataclass(frozen=True)
class Plan:
    """What a node must agree with.

    Attributes
    ----------
    run: name of the run.
    parameters: size d of the model.
    classes: class names in the order of the labels; empty if the server knows none.
    digest: of the partition; empty where devices bring their own images.
    """

    run: str
    parameters: int
    classes: tuple[str, ...]
    digest: str


class Nodes:
    """The nodes of one run.

    Attributes
    ----------
    enrolled: node id -> what it told about itself.
    online: ids of the nodes that were there at the last look.
    """

    def __init__(self, grid: Grid, plan: Plan, notice: Notice) -> None:
        self._grid = grid
        self._plan = plan
        self._notice = notice
        self._refused: dict[int, float] = {}
        self.enrolled: dict[int, enrolment.Up] = {}
        self.online: set[int] = set()

    @property
    def sources(self) -> list[int]:
        """Enrolled nodes that train and are online, in order."""
        return self._with_role("source")

    @property
    def targets(self) -> list[int]:
        """Enrolled nodes that only adapt and are online, in order."""
        return self._with_role("target")

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until ``count`` nodes have introduced themselves.

        Raises
        ------
        FleetError: they have not in time.
        """
        end, last = time.monotonic() + seconds, -1
        while True:
            self.discover(max(1.0, end - time.monotonic()))
            present = len(self.enrolled.keys() & self.online)
            if present >= count:
                return
            if present != last:
                self._notice(f"waiting for nodes: {present} of {count} are ready")
                last = present
            if time.monotonic() > end:
                raise FleetError(
                    f"only {present} of {count} nodes were ready after {seconds:.0f} s; start the "
                    "others, look at their logs, or lower round.nodes"
                )
            time.sleep(0.5)

    def discover(self, seconds: float) -> list[int]:
        """Let new nodes introduce themselves; returns those that did."""
        self.online = set(self._grid.get_node_ids())
        now = time.monotonic()
        new = sorted(
            node
            for node in self.online - self.enrolled.keys()
            if now - self._refused.get(node, -RETRY_AFTER) >= RETRY_AFTER
        )
        if not new:
            return []
        down = enrolment.Down(self._plan.run, self._plan.parameters)
        messages = [Message(pack(down), node, "query.enrol", ttl=seconds) for node in new]
        ids = list(self._grid.push_messages(messages))
        joined = []
        for node, reply in collect(self._grid, list(zip(new, ids, strict=True)), now + seconds):
            problem = self._enrol(node, reply)
            if problem:
                self._refused[node] = time.monotonic()
                self._notice(f"node {node} cannot take part: {problem}")
            else:
                joined.append(node)
        return joined

    def _enrol(self, node: int, reply: Message | None) -> str:
        if reply is None:
            return "it did not answer"
        if reply.has_error():
            return reply.error.reason or "its ClientApp failed"
        try:
            up = unpack(enrolment.Up, reply.content)
        except WireError as error:
            return str(error)
        plan = self._plan
        if up.role not in ("source", "target") or up.support < 1 or up.query < 1:
            return f"it is a {up.role!r} with {up.support} support and {up.query} query images"
        if plan.classes and tuple(up.classes) != plan.classes:
            return f"its classes are {', '.join(up.classes)}; the run's {', '.join(plan.classes)}"
        if plan.digest and up.plan != plan.digest:
            return "it deals the images otherwise: its data set or release differs"
        played = set(up.clients)
        for other, earlier in self.enrolled.items():
            if plan.digest and other in self.online and played & set(earlier.clients):
                return f"node {other} plays clients {sorted(played & set(earlier.clients))} already"
        self.enrolled[node] = up
        return ""

    def _with_role(self, role: str) -> list[int]:
        return sorted(
            n for n in self.online if n in self.enrolled and self.enrolled[n].role == role
        )
