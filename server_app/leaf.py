"""A leaf: it asks devices of its own on behalf of a server above, and adds up what they answer.

It does to replies what the server does, with the same code, and knows for it what the server tells
with the question: what of the run's method bears on these clients, and what the gate has learned.
So it has nothing to remember from one question to the next, and a leaf that was lost is replaced by
starting it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

import server_app.methods
from common import leaf, registry
from common.errors import AugFlowerError
from common.task import Task
from common.tensors import Tensors
from common.wire import from_bytes, pack, parts, size, to_bytes, unpack
from server_app.aggregation.replies import Offer
from server_app.clients.messaging import Answer, Exchange
from server_app.initialisation import initial_model
from server_app.method import Method, Setup
from server_app.monitoring.status import Status
from server_app.rounds.intake import Images, Intake
from server_app.run_settings import read_settings
from server_app.runs.secret import FILE, new_secret, read_secret, write_secret
from server_app.transport.leaves import blob, write
from server_app.transport.told import Counted, Missing, Partial, Refused, Told
from server_app.validation.errors import Rejected
from server_app.validation.gate import Gate
from server_app.validation.message import Asked, check

Notice = Callable[[str], None]

NOTHING = Partial("", {}, 0)
"""Stands for the sum, which travels beside what is told of each reply."""


def serve(
    grid: Grid, config: Mapping[str, Any], socket: Path, folder: Path, notice: Notice
) -> None:
    """Answer what comes through a socket (``common/leaf.py``) until the run is over.

    Parameters
    ----------
    config: the run's flat settings.
    socket: where the leaf hands on what it is asked.
    folder: keeps the leaf's secret.
    """
    if not (folder / FILE).exists():
        write_secret(folder, new_secret())
    leaf_of_run = Leaf(grid, config, read_secret(folder), notice)
    with Client(str(socket), "AF_UNIX") as above:
        above.send_bytes(f"{leaf.SERVES} {grid.run.run_id}".encode())
        goes_on = True
        while goes_on:
            try:
                asked = above.recv_bytes()
            except EOFError:
                return
            try:
                found, goes_on = leaf_of_run.answer(from_bytes(asked))
                above.send_bytes(leaf.FOUND + to_bytes(found))
            except AugFlowerError as error:
                notice(str(error))
                above.send_bytes(leaf.FAILED + str(error).encode())


class Devices:
    """The devices of a leaf, by Flower's node ids alone; see ``clients.messaging.Whereabouts``."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._there: dict[int, NodeInfo] = {}
        self.enrolled: set[int] = set()

    @property
    def online(self) -> Mapping[int, str]:
        """Node -> when it came online."""
        return {node: info.last_activated_at for node, info in self._there.items()}

    @property
    def infos(self) -> list[NodeInfo]:
        """Of all that are online, in order."""
        return [info for _, info in sorted(self._there.items())]

    def at(self, client_id: int) -> int | None:
        """Itself, if it was online at the last look."""
        return client_id if client_id in self._there else None

    def last(self, client_id: int) -> int:
        """Itself."""
        return client_id

    def name(self, node: int) -> str:
        """Its registered name, or its id."""
        info = self._there.get(node)
        return info.name if info is not None and info.name else f"node {node}"

    def discover(self) -> None:
        """Look who is there."""
        self._there = {info.node_id: info for info in self._grid.get_nodes()}
        self.enrolled |= self._there.keys()


class Leaf:
    """Answers what the server above asks."""

    def __init__(
        self, grid: Grid, config: Mapping[str, Any], secret: bytes, notice: Notice
    ) -> None:
        """Take part in one run.

        Parameters
        ----------
        grid: of the leaf's own devices.
        config: the run's flat settings.
        secret: for what devices must not foresee; the leaf's own.
        """
        self._grid = grid
        self._settings, self._options, _ = read_settings(config)
        self._secret = secret
        self._notice = notice
        self._devices = Devices(grid)
        self._exchange = Exchange(
            grid, self._devices, self._settings.round, Status(), notice, pack=list
        )
        self._method: Method | None = None

    def answer(self, content: RecordDict) -> tuple[RecordDict, bool]:
        """Ask the devices, and give what came of it by the time that the server above has set;
        and whether the run goes on.

        Raises
        ------
        WireError: it is no question.
        """
        down = unpack(leaf.Down, content)
        self._devices.discover()
        whole: dict[str, Any] = {}
        found: dict[int, Told] = {}
        sums: Mapping[str, Any] = {}
        if down.nodes:
            free, busy = self._exchange.free([int(node) for node in down.nodes])
            found = {int(one["node"]): Missing(one["reason"], True) for one in busy}
            if down.brief:
                sums = self._train(down, free, found)
            else:
                self._pass_on(down, free, found, whole)
        there = self._devices.infos
        free, _ = self._exchange.free([info.node_id for info in there])
        told = [found.get(int(node)) for node in down.nodes]
        up = leaf.Up(
            nodes=[str(info.node_id) for info in there],
            names=[info.name for info in there],
            activated=[info.last_activated_at for info in there],
            late=[str(info.node_id) for info in there if info.node_id not in free],
            answers=[json.dumps({"whole": True} if t is None else write(t)) for t in told],
            content=Tensors.pack(whole),
            sums=Tensors.pack(sums) if sums else None,
        )
        return pack(up), down.kind != leaf.END

    def _train(
        self, down: leaf.Down, nodes: list[int], found: dict[int, Told]
    ) -> Mapping[str, Any]:
        """Let devices train; notes what came of each, and gives the sums."""
        brief = json.loads(down.brief)
        clients = {int(node): int(client) for node, client in brief["clients"].items()}
        images = {int(client): Images(*pair) for client, pair in brief["images"].items()}
        method = self._looking(down.classes)
        method.take_brief(brief["method"])
        gate = Gate()
        gate.take_brief(brief["gate"])
        intake = Intake(
            method, gate, down.round, down.kind, self._exchange.run_id, images.__getitem__,
            clients.__getitem__,
        )  # fmt: skip
        begun, taken = time.time(), list[tuple[Answer, Offer]]()
        answers = self._ask(down, nodes, in_order=lambda: gate.learning)
        for position, answer in enumerate(answers, 1):
            if answer.reply is None:
                found[answer.node] = Missing(answer.reason, answer.late)
            for one, decided in intake.take(answer, last=position == len(nodes)):
                if isinstance(decided, Rejected):
                    found[one.node] = Refused(decided.field, decided.reason, decided.excessive)
                else:
                    taken.append((one, decided))
        for one, offer in taken:
            up = intake.replies.ups[offer.client]
            tensors, notes = parts(up)
            assert isinstance(one.reply, Message)
            found[one.node] = Counted(
                NOTHING, notes, tuple(tensors), offer.sizes, offer.compared,
                method.finding(offer.client, up), one.node in gate.doubtful,
                one.seconds(begun), size(one.reply.content),
            )  # fmt: skip
        return intake.replies.parts()

    def _pass_on(
        self, down: leaf.Down, nodes: list[int], found: dict[int, Told], whole: dict[str, Any]
    ) -> None:
        """Hand on what devices answer as it is."""
        for answer in self._ask(down, nodes):
            sent = Asked(answer.node, answer.message_id, self._exchange.run_id, down.kind)
            if answer.reply is None:
                found[answer.node] = Missing(answer.reason, answer.late)
                continue
            try:
                whole[str(answer.node)] = blob(check(answer.reply, sent).content)
            except Rejected as refusal:
                found[answer.node] = Refused(refusal.field, refusal.reason, refusal.excessive)

    def _ask(
        self, down: leaf.Down, nodes: list[int], in_order: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        records = {name: from_bytes(a.tobytes()) for name, a in down.records.unpack().items()}
        contents = {
            int(node): RecordDict(
                {name: part for number in numbers.split() for name, part in records[number].items()}
            )
            for node, numbers in zip(down.nodes, down.content, strict=True)
        }
        return self._exchange.ask(
            down.round, down.kind, nodes, contents.__getitem__, in_order, down.seconds
        )

    def _looking(self, classes: int) -> Method:
        """The run's method as far as it looks at replies: without anything private."""
        if self._method is None:
            settings, data = self._settings, self._settings.data
            model = initial_model(settings, classes, self._notice)
            task = Task(settings.model, classes, data.channels, data.image_size)
            setup = Setup(
                model.parameters, model.buffers, settings.seed, task,
                secret=self._secret, deadline=settings.round.deadline,
            )  # fmt: skip
            self._method = registry.load(server_app.methods, settings.method).Server(
                self._options, setup
            )
        return self._method
