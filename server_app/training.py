"""One round of training: choose, send, collect, admit, update."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from flwr.app import Message

from common import evaluation
from common.config import RunSettings
from common.errors import DivergedError, FleetError, RunError, WireError
from common.wire import size
from server_app.able import able
from server_app.admission import Gate, check_fields
from server_app.exchange import Answer, Exchange
from server_app.judging import combine, entries
from server_app.method import Method
from server_app.nodes import Nodes
from server_app.rejection import Rejected, printable
from server_app.replies import Asked, check, read
from server_app.seeds import seed_for
from server_app.status import Status
from server_app.stopwatch import Stopwatch

Notice = Callable[[str], None]

MAX_VOID = 5
"""Void rounds in a row after which a run gives up."""

GROWN = {"loss", "own_loss", "curvature", "increment", "change"}
"""Fields of replies that grow without bound when a run diverges."""


class Training:
    """The part of a round in which devices train.

    Attributes
    ----------
    enrolled: seat -> number of examples of each source that the method knows.
    void: rounds in a row without enough replies.
    """

    def __init__(
        self,
        settings: RunSettings,
        method: Method,
        contract: ModuleType,
        nodes: Nodes,
        exchange: Exchange,
        gate: Gate,
        status: Status,
        notice: Notice,
    ) -> None:
        self._settings = settings
        self._method = method
        self._contract = contract
        self._nodes = nodes
        self._exchange = exchange
        self._gate = gate
        self._status = status
        self._notice = notice
        self._kind = f"train.{settings.method}"
        self.enrolled: dict[int, int] = {}
        self.void = 0

    def enrol(self, seat: int, examples: int) -> None:
        """Tell the method of a source."""
        self._method.enrol(seat, examples)
        self.enrolled[seat] = examples

    def run(self, round: int, watch: Stopwatch) -> dict[str, Any]:
        """Train once; gives the round's line for the record.

        Raises
        ------
        FleetError: no source was there for long.
        RunError: too many rounds in a row were void; a DivergedError if the model is why.
        """
        with watch.phase("waiting"):
            asked, missing = self._participants(round)
        with watch.phase("broadcast"):
            begun = time.time()
            answers = self._exchange.ask(
                round,
                self._kind,
                asked,
                lambda seat: self._method.broadcast(round, seat),
            )
        rejected: list[dict[str, str]] = []
        clients: list[dict[str, Any]] = []
        judged: list[dict[str, Any]] = []
        bytes_up = 0
        for _ in asked:
            with watch.phase("train"):
                answer = next(answers)
            if answer.reply is None:
                missing.append({"node": str(answer.node), "reason": answer.reason})
                continue
            if isinstance(answer.reply, Message):
                bytes_up += size(answer.reply.content)
            with watch.phase("absorb"):
                try:
                    entry = self._absorb(round, answer, begun, judged)
                except Rejected as refusal:
                    self._status.node(answer.node, "rejected", reason=str(refusal))
                    rejected.append(refusal.entry(answer.node, "training"))
                else:
                    clients.append(entry)
        with watch.phase("update"):
            metrics = self._update(round, len(asked), len(clients), rejected)
        line = {
            "bytes_down": self._exchange.bytes_down,
            "bytes_up": bytes_up,
            "asked": len(asked),
            "replies": len(clients),
            "missing": missing,
            "rejected": rejected,
            "clients": clients,
            "train": {"loss": metrics.pop("loss")} if "loss" in metrics else {},
            "method": metrics,
        }
        return line | ({"evaluation_sources": combine(judged)} if judged else {})

    def _participants(self, round: int) -> tuple[list[int], list[dict[str, str]]]:
        """The seats of this round, a share drawn anew each time; and who could not be asked."""
        rules = self._settings.round
        end = time.monotonic() + rules.wait
        told = False
        while True:
            self._nodes.discover()
            for seat in self._nodes.sources:
                if seat not in self.enrolled:
                    self.enrol(seat, self._examples(seat))
            free, late = self._exchange.free(self._nodes.sources)
            seats = able(round, free, self._nodes, self._gate, self._status)
            if seats:
                count = max(1, round_up(rules.fraction * len(seats)))
                chosen = random.Random(seed_for(self._settings.seed, "sample", round))
                return sorted(chosen.sample(seats, count)), late
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

    def _absorb(
        self, round: int, answer: Answer, begun: float, judged: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Admit a reply and let the method have it; its entry for the record."""
        node, enrolled = answer.node, self._nodes.enrolled[answer.node]
        up, own = self._gate.admit(round, node, lambda: self._examine(round, answer))
        self._method.absorb(answer.seat, up)
        judged += own
        # What a device had to do without, and why.
        without = printable(getattr(up, "without", ""), 80)
        entry = {
            "node": str(node),
            "client": ",".join(map(str, enrolled.clients)),
            "seconds": answer.seconds(begun),
            "examples": up.examples,
            "loss": up.loss,
        }
        return entry | ({"without": without} if without else {})

    def _examine(
        self, round: int, answer: Answer
    ) -> tuple[tuple[Any, list[dict[str, Any]]], dict[str, float]]:
        """The reply, and the judgement that came with it; and sizes for the gate.

        Raises
        ------
        Rejected: something is wrong with it.
        """
        model, buffers = self._method.model.specs, self._method.buffers.specs
        expected = {
            "round": round,
            "examples": self.enrolled[answer.seat],
            "increment": model,
            "change": model,
            "buffers": buffers,
        }
        asked = Asked(answer.node, answer.message_id, self._exchange.run_id, self._kind)
        reply = check(answer.reply, asked, (model, buffers))
        try:
            own = evaluation.detach(reply.content)
        except WireError as error:
            raise Rejected(f"evaluation.{error.field}", str(error)) from None
        own_entries = entries(answer.node, own, self._nodes.enrolled[answer.node]) if own else []
        if own and not (self._settings.evaluation.sources and self._settings.evaluates(round)):
            raise Rejected("evaluation", "nobody asked for it")
        up = read(self._contract.Up, reply.content)
        check_fields(up, expected)
        return (up, own_entries), self._method.offer(answer.seat, up)

    def _update(
        self, round: int, asked: int, replies: int, rejected: list[dict[str, str]]
    ) -> dict[str, float]:
        self._gate.end_round()
        if replies >= max(1, self._settings.round.quorum * asked):
            self.void = 0
            return self._method.step(round)
        self._method.discard()
        self.void += 1
        self._notice(f"round {round}: void, {replies} of {asked} replies are under the quorum")
        if self.void >= MAX_VOID:
            grown = [entry for entry in rejected if entry["field"] in GROWN]
            said = (
                f"{MAX_VOID} rounds in a row had fewer replies than round.quorum="
                f"{self._settings.round.quorum:g}; the last checkpoint is kept"
            )
            # One device may lie about its size; that most do so at once is the model's doing.
            if 2 * len(grown) >= asked:
                raise DivergedError(
                    f"{said}. {len(grown)} were rejected for what grows when a run diverges "
                    f"({grown[0]['field']} {grown[0]['reason']}): raise rho or lower the "
                    "learning rate"
                )
            raise RunError(said)
        return {}

    def _examples(self, seat: int) -> int:
        node = self._nodes.at(seat)
        assert node is not None
        return self._nodes.enrolled[node].support + self._nodes.enrolled[node].query


def round_up(value: float) -> int:
    """Ceiling that forgives rounding: 0.3 * 10 is 3."""
    return math.ceil(value - 1e-9)
