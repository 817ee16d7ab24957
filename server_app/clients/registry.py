"""Who is there: nodes introduce themselves before they take part, whenever they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from common import enrolment
from common.errors import FleetError
from common.release import release
from common.wire import pack
from server_app.clients.bindings import Binding, awaited, misfits
from server_app.monitoring.status import Status
from server_app.transport.grid import PullingGrid, arrived, forget
from server_app.transport.polling import Unreadable, pull
from server_app.transport.push import push
from server_app.transport.told import Missing, Told
from server_app.validation.errors import Rejected, printable
from server_app.validation.message import Asked, check, read

Notice = Callable[[str], None]

MOST_IMAGES = 10**7
"""Of a device's own, each half; what they count for, ``data.weight-limit`` bounds further."""

LOOK = 2.0
"""Seconds between two looks at who is online while introductions are awaited."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two looks at what has come."""

REST = 4.0
"""Times as long as a look took, until the next one while a run waits for nodes."""

RETRY_AFTER = 15.0
"""Seconds before a node that failed to introduce itself is asked again."""


@dataclass(frozen=True)
class Plan:
    """What a node must agree with.

    Attributes
    ----------
    run: name of the run.
    token: of this run and no other of that name.
    parameters: size d of the model.
    classes: class names in the order of the labels; empty if the server knows none.
    digest: of the partition; empty where devices bring their own images.
    sources: clients that train; in the partition they come first.
    client_images: numbers of support, query and test images of each client of the partition.
    bindings: name of a device -> what the operator has said of it.
    timed: width and images of a step that nodes are to time; None if none.
    on_demand: whether sources of which the operator has said all that a choice needs introduce
        themselves when they are first chosen, and not when they come.
    backbone: SHA-256 of what of the model nobody trains; empty if all of it is trained.
    """

    run: str
    token: str
    parameters: int
    classes: tuple[str, ...]
    digest: str
    sources: int = 0
    client_images: tuple[tuple[int, int, int], ...] = ()
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    timed: tuple[float, int] | None = None
    on_demand: bool = False
    backbone: str = ""


class Nodes:
    """The nodes of one run.

    A client id is what the run knows a node by: the first client that it plays, where a data set is
    partitioned, and Flower's node id, which its key decides, where devices bring their own images.
    A node that comes back under another id thus takes its place again, and a run's result does not
    depend on Flower's random ids.

    Attributes
    ----------
    enrolled: node id -> what it told about itself.
    online: node id -> when it last came online, in the SuperLink's words, at the last look.
    expected: client -> its node, of sources that are online and introduce themselves on demand.
    names: node id -> the name under which its key was registered, of those that have one.
    leaves: node id -> the name of the leaf behind which it stands, of those that do.
    """

    def __init__(
        self, grid: Grid, plan: Plan, notice: Notice, status: Status, answer_timeout: float
    ) -> None:
        self._grid = grid
        self._plan = plan
        self._notice = notice
        self._status = status
        self._answer_timeout = answer_timeout
        self._refused: dict[int, float] = {}
        self._asked: dict[int, tuple[str, float]] = {}
        self._rejected: dict[int, dict[str, str]] = {}
        self.enrolled: dict[int, enrolment.Up] = {}
        self.online: dict[int, str] = {}
        self.expected: dict[int, int] = {}
        self._client_ids: dict[int, int] = {}  # of those online
        self._players: dict[int, int] = {}  # client of the partition -> the node that came last
        self._owners = {n: name for name, bound in plan.bindings.items() for n in bound.numbers}
        self.names: dict[int, str] = {}
        self.leaves: dict[int, str] = {}

    @property
    def sources(self) -> list[int]:
        """Clients that train and are online, in order."""
        return self._with_role("source")

    @property
    def eligible(self) -> list[int]:
        """Clients that train and are online, in order, also those that are to introduce themselves
        when they are chosen."""
        return sorted({*self.sources, *self.expected})

    @property
    def targets(self) -> list[int]:
        """Clients that only adapt and are online, in order."""
        return self._with_role("target")

    def client_id(self, node: int) -> int:
        """The client of an enrolled node."""
        return self.enrolled[node].clients[0] if self._plan.digest else node

    def at(self, client_id: int) -> int | None:
        """The node in a client; None if it was not online at the last look."""
        return self._client_ids.get(client_id, self.expected.get(client_id))

    def last(self, client_id: int) -> int:
        """The node that was in a client last, be it online or not."""
        return self._players.get(client_id, client_id) if self._plan.digest else client_id

    def vouched(self, node: int) -> bool:
        """Whether the operator has bounded the number of a node's own images."""
        bound = self._plan.bindings.get(self.names.get(node, ""))
        return bound is not None and bound.most_images > 0

    def name(self, node: int) -> str:
        """What people call a node: its registered name, or its id and the clients it plays."""
        up = self.enrolled.get(node)
        if node in self.names or up is None or not self._plan.digest:
            return self._called(node)
        first, last = min(up.clients), max(up.clients)
        return f"node {node} (client{f's {first} to {last}' if last > first else f' {first}'})"

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until ``count`` nodes have introduced themselves.

        With 0, for one at least and all devices of the fleet that can take part, as far as the
        server knows them; those that are missing after ``seconds`` are named, and not waited for.

        Raises
        ------
        FleetError: they have not in time.
        """
        for line in misfits(self._plan.bindings, self._plan.sources, len(self._plan.client_images)):
            self._notice(line)
        end, told = time.monotonic() + seconds, ""
        while True:
            begun = time.monotonic()
            self.discover()
            took = time.monotonic() - begun
            present = len(self.enrolled.keys() & self.online.keys()) + len(self.expected)
            missing = self._missing()
            late = time.monotonic() > end
            if present >= max(count, 1) and (count or late or not missing):
                if missing:
                    self._notice(
                        f"the run begins without {_listed(missing)}; nobody waits for them"
                    )
                return
            wanted = count or max(present + len(missing), 1)
            whom = f"; not there: {_listed(missing)}" if missing else ""
            if late:
                raise FleetError(
                    f"only {present} of {wanted} nodes were ready after {seconds:.0f} s{whom}; "
                    "start the others, look at their logs, or set round.nodes"
                )
            if (said := f"waiting for nodes: {present} of {wanted} are ready{whom}") != told:
                self._notice(said)
                told = said
            # The SuperLink has to answer the nodes as well, and with many of them a look is long.
            time.sleep(max(0.1, REST * took))

    def discover(self) -> None:
        """Ask new nodes to introduce themselves, and take in those that have; waits for nobody."""
        self._look()
        now = time.monotonic()
        unknown = self.online.keys() - self.enrolled.keys() - self._asked.keys()
        self.expected = {}
        for node in sorted(unknown - self._refused.keys()) if self._plan.on_demand else ():
            if (client_id := self._client_of(node)) is not None:
                self.expected[client_id] = node
        self._ask(
            sorted(
                node
                for node in unknown - set(self.expected.values())
                if now - self._refused.get(node, -RETRY_AFTER) >= RETRY_AFTER
            )
        )
        self._take_in()

    def introduce(self, client_ids: Iterable[int], seconds: float) -> None:
        """Let sources introduce themselves that were left in peace so far, and wait for them."""
        asked = {self.expected.pop(client_id) for client_id in client_ids}
        self._ask(sorted(asked))
        end, pause, look = time.monotonic() + seconds, FIRST_PAUSE, time.monotonic() + LOOK
        while asked & self._asked.keys() and time.monotonic() < end:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            if time.monotonic() >= look:
                self._look()  # who has gone need not be waited for
                look = time.monotonic() + LOOK
            self._take_in()

    def _client_of(self, node: int) -> int | None:
        """The client of a source that has not introduced itself, if the operator has said it."""
        bound = self._plan.bindings.get(self.names.get(node, ""))
        if bound is None or bound.role != "source":
            return None
        if not self._plan.digest:
            return node
        numbers = bound.numbers
        if len(numbers) != 1 or numbers[0] >= self._plan.sources:
            return None
        return None if numbers[0] in self._client_ids else numbers[0]

    def _ask(self, new: Sequence[int]) -> None:
        """Ask nodes to introduce themselves."""
        now = time.monotonic()
        if new:
            plan = self._plan
            timed = plan.timed or (0.0, 0)
            down = enrolment.Down(plan.run, plan.token, plan.parameters, *timed, plan.backbone)

            def write() -> list[Message]:
                return [
                    Message(pack(down), n, "query.enrol", ttl=self._answer_timeout) for n in new
                ]

            for node, message_id in zip(new, push(self._grid, write), strict=True):
                if message_id:
                    self._asked[node] = (message_id, now + self._answer_timeout)
                    if node not in self._refused:
                        self._status.node(node, "unready", reason="has not introduced itself yet")

    def _take_in(self) -> None:
        """Take in the nodes that have introduced themselves."""
        now = time.monotonic()
        there = set(arrived(self._grid, [message_id for message_id, _ in self._asked.values()]))
        for node, (message_id, until) in list(self._asked.items()):
            if message_id not in there and now < until and node in self.online:
                continue
            reply = pull(self._grid, message_id)
            if reply is None and now < until and node in self.online:
                continue
            del self._asked[node]
            forget(self._grid, message_id)
            try:
                problem = self._enrol(node, message_id, reply)
            except Rejected as refusal:
                problem = str(refusal)
                self._rejected[node] = refusal.entry(node, "introduction")
                self._status.node(node, "rejected", reason=f"cannot take part: {problem}")
            else:
                if problem:
                    reason = f"cannot take part: {problem}"
                    self._status.node(node, "unready", reason=reason, seen=reply is not None)
            if problem:
                self._refused[node] = time.monotonic()
                self._notice(f"{self.name(node)} cannot take part: {problem}")
        self._client_ids = {
            self.client_id(node): node for node in self.enrolled.keys() & self.online.keys()
        }

    def rejected(self) -> list[dict[str, str]]:
        """Introductions rejected since the last call, for the record; of each node its last one."""
        entries = list(self._rejected.values())
        self._rejected.clear()
        return entries

    def _look(self) -> None:
        before = self.online
        there = list(self._grid.get_nodes())
        self.online = {n.node_id: n.last_activated_at for n in there}
        # Whoever registered the key has chosen it, not the device.
        for n in there:
            leaf = self._grid.leaf(n.node_id) if isinstance(self._grid, PullingGrid) else ""
            known = self.names.get(n.node_id, ""), self.leaves.get(n.node_id, "")
            if known != (told := (printable(n.name, 80), leaf)):
                if n.name:
                    self.names[n.node_id] = told[0]
                if leaf:
                    self.leaves[n.node_id] = leaf
                self._status.name(n.node_id, *told)
        for node in self._refused.keys() - self.enrolled.keys():
            if node in before and node not in self.online:
                self._status.node(node, "gone", reason="it is no longer connected")
        for node in self.enrolled:
            if node in before and node not in self.online:
                self._status.node(node, "gone", reason="it is no longer connected")
            elif node not in before and node in self.online:
                self._status.node(node, "online", seen=True)

    def _enrol(self, node: int, message_id: str, reply: Message | Unreadable | Told | None) -> str:
        """Take in a node; returns why it cannot be taken in now, if so.

        Raises
        ------
        Rejected: it may not take part.
        """
        if reply is None:
            return "it did not answer"
        if isinstance(reply, Missing):
            return printable(reply.reason)
        if isinstance(reply, Message) and reply.has_error():
            return printable(reply.error.reason or "its ClientApp failed")
        sent = Asked(node, message_id, self._grid.run.run_id, "query.enrol")
        up = read(enrolment.Up, check(reply, sent).content)
        _check_possible(up, self._plan)
        self._check_bound(node, up)
        if self._plan.digest and (problem := self._take_place(node, up.clients)):
            return problem
        self.enrolled[node] = up
        clients = ",".join(map(str, up.clients))
        self._status.node(node, "online", role=up.role, clients=clients, seen=True)
        if up.release != release():
            its, ours = (
                text or "(not installed)" for text in (printable(up.release, 40), release())
            )
            self._notice(
                f"{self.name(node)} has AugFlower {its}, the server {ours}; install the same "
                "release on both"
            )
        return ""

    def _called(self, node: int) -> str:
        return self.names.get(node, f"node {node}")

    def _take_place(self, node: int, clients: list[int]) -> str:
        """Let a node play clients; returns why it cannot now, if so."""
        others: dict[int, list[int]] = {}
        for client in clients:
            other = self._players.get(client)
            if other is not None and other in self.enrolled:
                others.setdefault(other, []).append(client)
        for other, shared in others.items():
            if other in self.online:  # or was, until a restart
                return f"{self._called(other)} plays clients {sorted(shared)} already"
        for other in others:
            del self.enrolled[other]  # this node has come in its place
            self._status.node(other, "gone", reason=f"{self._called(node)} has taken its place")
        self._players |= dict.fromkeys(clients, node)
        return ""

    def _check_bound(self, node: int, up: enrolment.Up) -> None:
        """Refuse a node that is not what the operator has said of its key.

        Raises
        ------
        Rejected: with the field and the reason.
        """
        name = self.names.get(node, "")
        bound = self._plan.bindings.get(name)
        if self._plan.digest:
            if bound is not None and bound.clients:
                if sorted(up.clients) != bound.numbers:
                    shown = str(up.clients)[:80]
                    raise Rejected("clients", f"are {shown}; those of {name} are {bound.clients}")
            elif owned := [client for client in up.clients if client in self._owners]:
                owner = self._owners[owned[0]]
                raise Rejected("clients", f"{owned[0]} is the client of {owner} alone")
            return
        if bound is None:
            return
        if up.role != bound.role:
            raise Rejected("role", f"is {up.role}; that of {name} is {bound.role}")
        images = up.support + up.query
        if bound.most_images and images > bound.most_images:
            raise Rejected(
                "images", f"are {images}; {name} may have {bound.most_images} (most-images)"
            )

    def _missing(self) -> list[str]:
        """Devices of the fleet that could take part, and were not heard of."""
        heard = (self.enrolled.keys() | self._refused.keys()) & self.online.keys()
        heard |= set(self.expected.values())
        there = {self.names.get(node) for node in heard}
        can = awaited(self._plan.bindings, self._plan.sources, len(self._plan.client_images))
        return [name for name in can if name not in there]

    def _with_role(self, role: str) -> list[int]:
        return sorted(s for s, node in self._client_ids.items() if self.enrolled[node].role == role)


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_possible(up: enrolment.Up, plan: Plan) -> None:
    """Refuse an introduction that can be of no node of this run.

    Raises
    ------
    Rejected: with the field and the reason.
    """
    if up.role not in ("source", "target"):
        raise Rejected("role", f"is {up.role!r}; there are source and target")
    if up.parameters != plan.parameters:
        raise Rejected("parameters", f"are {up.parameters}; the run's model has {plan.parameters}")
    if plan.classes and tuple(up.classes) != plan.classes:
        raise Rejected(
            "classes", f"are {', '.join(up.classes)[:120]}; the run's are {', '.join(plan.classes)}"
        )
    if up.plan != plan.digest:
        raise Rejected("plan", "it divides the images otherwise: its data set or release differs")
    if plan.digest:
        _check_client_images(up, plan)
        return
    if up.clients != [-1]:
        raise Rejected("clients", f"are {str(up.clients)[:80]}; its own images have no number")
    for name in ("support", "query"):
        if not 0 < getattr(up, name) <= MOST_IMAGES:
            raise Rejected(name, f"is {getattr(up, name)} images; 1 to {MOST_IMAGES} are possible")


def _check_client_images(up: enrolment.Up, plan: Plan) -> None:
    """Refuse a node whose clients are not those of the partition."""
    clients, total = up.clients, len(plan.client_images)
    shown = str(clients)[:80]
    if not clients or len(set(clients)) != len(clients):
        raise Rejected("clients", f"are {shown}")
    if not 0 <= min(clients) <= max(clients) < total:
        raise Rejected("clients", f"are {shown}; the run has clients 0 to {total - 1}")
    first = min(clients)
    if first < plan.sources and len(clients) > 1:
        raise Rejected("clients", f"are {shown}; a node that trains plays one client")
    role = "source" if first < plan.sources else "target"
    if up.role != role:
        raise Rejected("role", f"is {up.role}; client {first} is a {role}")
    expected = [
        sum(column) for column in zip(*(plan.client_images[n] for n in clients), strict=True)
    ]
    for name, images in zip(("support", "query", "test"), expected, strict=True):
        if getattr(up, name) != images:
            raise Rejected(name, f"is {getattr(up, name)} images; assigned were {images}")
