"""One round of training: choose, send, collect, admit, update."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message

from common import enrolment
from common.config import RunSettings
from common.errors import FleetError, RunError
from common.seeds import seed_for
from common.tensors import Tensors
from common.wire import size, tensor_fields
from server_app.clients.absence import Absence
from server_app.clients.eligible import eligible
from server_app.clients.messaging import Answer, Exchange
from server_app.clients.registry import Nodes
from server_app.clients.weights import counted
from server_app.method import Method, Source
from server_app.monitoring.status import Status
from server_app.rounds.intake import Images, Intake
from server_app.rounds.introduced import source
from server_app.rounds.safeguard import Safeguard
from server_app.rounds.timing import Stopwatch
from server_app.runs.record import by_node
from server_app.saved import State
from server_app.transport.told import Counted
from server_app.validation.errors import Rejected, printable
from server_app.validation.gate import Gate

Notice = Callable[[str], None]

INTRODUCTION = 60.0
"""Seconds that a round waits for clients that it chose first to introduce themselves."""


@dataclass(eq=False)
class Training:
    """The part of a round in which devices train.

    Attributes
    ----------
    enrolled: client -> number of examples of each source, as it says.
    vouched: clients of sources whose number of examples the operator has bounded.
    safeguard: decides what becomes of a round, and knows the best model so far.
    """

    _settings: RunSettings
    _method: Method
    _nodes: Nodes
    _exchange: Exchange
    _gate: Gate
    _status: Status
    _notice: Notice
    enrolled: dict[int, int] = field(default_factory=dict)
    vouched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._kind = f"train.{self._settings.method}"
        self._counted: dict[int, int] = {}  # what the method knows: examples that count
        self._told: dict[int, enrolment.Up] = {}
        quorum = self._settings.round.quorum
        self.safeguard = Safeguard(self._method, self._gate, quorum, self._nodes.name, self._notice)
        self._absence = Absence()

    def enrol(self, client_id: int, examples: int, vouched: bool = False) -> None:
        """Note a source."""
        self.enrolled[client_id] = examples
        if vouched:
            self.vouched.add(client_id)

    def run(self, round: int, watch: Stopwatch) -> dict[str, Any]:
        """Train once; gives the round's line for the record.

        Raises
        ------
        FleetError: no source was there for long.
        RunError: too many rounds in a row were void; a DivergedError if the model is why, or is
            lost again and again.
        """
        with watch.phase("waiting"):
            asked, free, missing = self._participants(round)
        with watch.phase("broadcast"):
            self._method.begin(round, asked)
            self._check_contract(asked[0])
            begun = time.time()
            answers = self._exchange.ask(
                round,
                self._kind,
                asked,
                lambda client_id: self._method.broadcast(round, client_id),
                # Who is compared with whom must not depend on who was quick.
                in_order=lambda: self._gate.learning,
            )
        intake = Intake(
            self._method, self._gate, round, self._kind, self._exchange.run_id, self._images
        )
        self._grown: list[dict[str, str]] = []
        rejected: list[dict[str, str]] = []
        clients: dict[int, dict[str, Any]] = {}
        players: dict[int, str] = {}
        bytes_up = 0
        late: list[int] = []
        for position, _ in enumerate(asked, 1):
            with watch.phase("train"):
                answer = next(answers)
            if answer.reply is None:
                missing.append({"node": str(answer.node), "reason": answer.reason})
                late += [answer.client_id] * answer.late
            elif isinstance(answer.reply, Message):
                bytes_up += size(answer.reply.content)
            elif isinstance(answer.reply, Counted):
                bytes_up += answer.reply.bytes
            with watch.phase("absorb"):
                if answer.reply is not None:
                    played = self._nodes.enrolled[answer.node].clients
                    players[answer.client_id] = ",".join(map(str, played))
                for one, decided in intake.take(answer, last=position == len(asked)):
                    if isinstance(decided, Rejected):
                        self._reject(one, decided, rejected)
                    else:
                        client = players[one.client_id]
                        clients[one.client_id] = self._entry(one, client, begun, decided.up)
        with watch.phase("update"):
            intake.replies.sort()
            metrics, back = self.safeguard.close(round, len(asked), intake.replies, self._grown)
            silent = (self.enrolled.keys() - free) | (set(asked) - clients.keys())
            if left := self._absence.note(sorted(silent), sorted(clients)):
                self._method.leave(left)
            self._method.late(sorted(late))
        return {
            "bytes_down": self._exchange.bytes_down,
            "bytes_up": bytes_up,
            "asked": len(asked),
            "replies": len(clients),
            "missing": by_node(missing),
            "rejected": by_node(rejected),
            "clients": [entry for _, entry in sorted(clients.items())],
            "train": {"loss": metrics.pop("loss")} if "loss" in metrics else {},
            "method": metrics,
            **({"went_back": back} if back else {}),
        }

    def brief(self, nodes: Sequence[int]) -> dict[str, Any]:
        """What a leaf must know to look at the replies of these nodes as this server does."""
        clients = {node: self._nodes.client_id(node) for node in nodes}
        return {
            "clients": clients,
            "images": {client: self._images(client) for client in clients.values()},
            "gate": self._gate.brief(),
            "method": self._method.brief([*clients.values()]),
        }

    def _images(self, client: int) -> Images:
        return Images(self.enrolled[client], self._counted[client])

    def _check_contract(self, client: int) -> None:
        """What a reply may hold must be said before anything is sent.

        Raises
        ------
        RunError: the method says nothing of a field of tensors, or speaks of one that is none.
        """
        assert self._method.up is not None
        sent, name = tensor_fields(self._method.up), f"method {self._settings.method}"
        known = self._method.expects(client).keys()
        if unknown := sorted(sent - known):
            raise RunError(
                f"{name}: {', '.join(unknown)} of its Up is not in what its server half expects; "
                "name the tensors that may come there"
            )
        if unknown := sorted((known | self._method.collects) - sent):
            raise RunError(
                f"{name}: its server half expects {', '.join(unknown)}, which is no field of "
                "tensors of its Up"
            )

    def _participants(self, round: int) -> tuple[list[int], list[int], list[dict[str, str]]]:
        """The clients of this round, a share drawn anew each time; all that could be asked; and
        entries on those that could not."""
        rules = self._settings.round
        end = time.monotonic() + rules.wait
        told = False
        while True:
            self._nodes.discover()
            free, late = self._exchange.free(self._nodes.eligible)
            client_ids = eligible(round, free, self._nodes, self._gate, self._status)
            if chosen := self._choose(round, client_ids):
                return chosen, client_ids, late
            if time.monotonic() > end:
                raise FleetError(
                    f"round {round}: no source node was there for {rules.wait:.0f} s; the last "
                    "checkpoint is kept, resume the run when nodes are back"
                )
            if not told:
                self._notice(f"round {round}: waiting for a source node")
                self._status.phase(round, "waiting")
                told = True
            time.sleep(0.5)

    def _choose(self, round: int, client_ids: list[int]) -> list[int]:
        """A share of clients, in order; all have introduced themselves."""
        dice = random.Random(seed_for(self._settings.seed, "sample", round))
        count = max(1, round_up(self._settings.round.fraction * len(client_ids)))
        chosen: set[int] = set()
        while client_ids and len(chosen) < count:
            drawn = dice.sample(client_ids, min(count - len(chosen), len(client_ids)))
            if new := [client_id for client_id in drawn if client_id in self._nodes.expected]:
                self._nodes.introduce(new, INTRODUCTION)
            # Others are drawn in the place of those that cannot take part.
            chosen |= set(drawn) & set(self._nodes.sources)
            left = set(client_ids) - set(drawn)
            client_ids = [client_id for client_id in client_ids if client_id in left]
        for client_id in self._nodes.sources:
            self._introduce(client_id)
        self._weigh()
        return sorted(chosen)

    def _entry(self, answer: Answer, client: str, begun: float, up: Any) -> dict[str, Any]:
        """What the record has on a reply that counts."""
        # What a device had to do without, and why.
        without = printable(getattr(up, "without", ""), 80)
        entry = {
            "node": str(answer.node),
            "client": client,
            "seconds": answer.seconds(begun),
            "examples": up.examples,  # that count
            "loss": up.loss,
        }
        more = self._method.about(answer.client_id) | ({"without": without} if without else {})
        return entry | more

    def _reject(self, answer: Answer, refusal: Rejected, rejected: list[dict[str, str]]) -> None:
        self._status.node(answer.node, "rejected", reason=str(refusal))
        rejected.append(refusal.entry(answer.node, "training"))
        if refusal.excessive:
            self._grown.append(rejected[-1])

    def state(self) -> State:
        """All that is needed to go on."""
        groups, notes = self.safeguard.state()
        enrolled = {str(client_id): examples for client_id, examples in self.enrolled.items()}
        notes |= {"enrolled": enrolled, "vouched": sorted(self.vouched)}
        return groups, notes | {"absence": self._absence.state()}

    def load_state(self, groups: Mapping[str, Tensors], notes: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave, before the method does."""
        self.safeguard.load_state(groups, notes)
        self._absence.load_state(notes["absence"])
        for client_id, examples in notes["enrolled"].items():
            self.enrol(int(client_id), examples, int(client_id) in notes["vouched"])
        self._weigh()

    def _introduce(self, client_id: int) -> None:
        node = self._nodes.at(client_id)
        assert node is not None
        told = self._nodes.enrolled[node]
        if client_id not in self.enrolled:
            self.enrol(client_id, told.support + told.query, self._nodes.vouched(node))
        if self._told.get(client_id) is not told:
            self._told[client_id] = told
            self._counted.pop(client_id, None)  # the method is to know

    def _weigh(self) -> None:
        """Tell the method what sources count for; one that comes may change it for others."""
        now = counted(self.enrolled, self._settings.data, self.vouched)
        for client_id, examples in now.items():
            if self._counted.get(client_id) != examples:
                told = self._told.get(client_id)
                self._method.enrol(client_id, source(examples, told) if told else Source(examples))
                about = self._method.about(client_id)
                if told and "why" in about:
                    name = self._nodes.name(self._nodes.last(client_id))
                    self._notice(f"{name} trains width {about['widest']:g}: {about['why']}")
        self._counted = now


def round_up(value: float) -> int:
    """Ceiling that forgives rounding: 0.3 * 10 is 3."""
    return math.ceil(value - 1e-9)
