"""The rounds of a run: broadcast, collect, admit, update, evaluate, record, checkpoint."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from common.config import RunSettings
from common.errors import FleetError, RunError
from common.modelfile import Card, save_model
from common.wire import pack, size
from server_app.admission import Gate, Rejected
from server_app.judging import judge
from server_app.method import Knowledge, Method
from server_app.nodes import Nodes
from server_app.runs.folder import RunFolder
from server_app.runs.report import write_report
from server_app.seeds import seed_for
from server_app.stopwatch import Stopwatch
from server_app.transport.ordered import collect

Notice = Callable[[str], None]


class Rounds:
    """Drives one method over one fleet."""

    def __init__(
        self,
        grid: Grid,
        settings: RunSettings,
        method: Method,
        contract: ModuleType | None,
        knowledge: Knowledge | None,
        nodes: Nodes,
        folder: RunFolder,
        card: Card,
        notice: Notice,
    ) -> None:
        self._grid = grid
        self._settings = settings
        self._method = method
        self._contract = contract
        self._knowledge = knowledge
        self._nodes = nodes
        self._folder = folder
        self._card = card
        self._notice = notice
        self._gate = Gate()
        self._best = math.inf
        self._void = 0
        self._enrolled: set[int] = set()

    def start(self, start: int) -> None:
        """Wait for the fleet, then run rounds ``start`` to the last.

        ``start`` = 0 judges the untrained model first.
        """
        last, rules = self._settings.rounds, self._settings.round
        self._nodes.wait_for(rules.nodes, rules.wait)
        if start == 0:
            watch = Stopwatch()
            with watch.phase("evaluate"):
                evaluation, down, up = self._evaluate(0)
            line = {"bytes_down": down, "bytes_up": up, "evaluation": evaluation}
            self._close(0, {"seconds": watch.seconds, **line})
        for round in range(max(start, 1), last + 1):
            self._round(round)
        self._save_model("last")

    def report(self) -> None:
        """Write the run's page; a page that cannot be written must not end a run."""
        try:
            write_report([self._folder.path], self._folder.path / "report.html")
        except (RunError, OSError) as error:
            self._notice(f"the page could not be written: {error}")

    def load_state(self, groups: dict[str, Any], notes: dict[str, Any]) -> None:
        """Take up a checkpoint."""
        self._method.load_state((groups, notes["method"]))
        if self._knowledge is not None:
            self._knowledge.load_state(notes["knowledge"])
        self._gate.load_state(notes["gate"])
        self._best = notes["best"] if notes["best"] is not None else math.inf
        for node, examples in notes["enrolled"].items():
            self._method.enrol(int(node), examples)
            self._enrolled.add(int(node))

    def _round(self, round: int) -> None:
        watch = Stopwatch()
        line: dict[str, Any] = {"seconds": watch.seconds}
        if self._contract is not None:
            line |= self._train(round, watch)
        else:
            with watch.phase("update"):
                line["method"] = self._method.step(round)
        self._diverged(round)
        if self._evaluates(round):
            with watch.phase("evaluate"):
                line["evaluation"], down, up = self._evaluate(round)
            line["bytes_down"] = line.get("bytes_down", 0) + down
            line["bytes_up"] = line.get("bytes_up", 0) + up
        self._close(round, line)

    def _train(self, round: int, watch: Stopwatch) -> dict[str, Any]:
        assert self._contract is not None
        with watch.phase("broadcast"):
            asked = self._participants(round)
            limit = self._settings.round.deadline
            shared: dict[int, ArrayRecord] = {}
            messages, bytes_down = [], 0
            for node in asked:
                content = pack(self._method.broadcast(round, node), shared)
                bytes_down += size(content)
                kind = f"train.{self._settings.method}"
                messages.append(Message(content, node, kind, ttl=limit, group_id=str(round)))
            begun = time.time()
            ids = list(self._grid.push_messages(messages))
            del messages, shared
        missing, rejected, clients, bytes_up = [], [], [], 0
        deadline = time.monotonic() + limit
        arrivals = collect(self._grid, list(zip(asked, ids, strict=True)), deadline)
        for _ in asked:
            with watch.phase("train"):
                node, reply = next(arrivals)
            if reply is None:
                missing.append({"node": str(node), "reason": "no reply before the deadline"})
            elif reply.has_error():
                missing.append({"node": str(node), "reason": (reply.error.reason or "")[:300]})
            else:
                bytes_up += size(reply.content)
                try:
                    with watch.phase("absorb"):
                        up = self._admit(round, node, reply)
                        self._method.absorb(node, up)
                except Rejected as refusal:
                    rejected.append(
                        {"node": str(node), "field": refusal.field, "reason": refusal.reason}
                    )
                    continue
                clients.append(
                    {
                        "node": str(node),
                        "client": ",".join(map(str, self._nodes.enrolled[node].clients)),
                        "seconds": max(0.0, reply.metadata.created_at - begun),
                        "examples": up.examples,
                        "loss": up.loss,
                    }
                )
        with watch.phase("update"):
            metrics = self._update(round, len(asked), len(clients))
        return {
            "bytes_down": bytes_down,
            "bytes_up": bytes_up,
            "asked": len(asked),
            "replies": len(clients),
            "missing": missing,
            "rejected": rejected,
            "clients": clients,
            "train": {"loss": metrics.pop("loss")} if "loss" in metrics else {},
            "method": metrics,
        }

    def _participants(self, round: int) -> list[int]:
        """The source nodes of this round: a fixed share, drawn anew for each round."""
        rules = self._settings.round
        end = time.monotonic() + rules.wait
        while True:
            self._nodes.discover(rules.wait)
            for node in self._nodes.sources:
                if node not in self._enrolled:
                    self._method.enrol(node, self._examples(node))
                    self._enrolled.add(node)
            able = [n for n in self._nodes.sources if not self._gate.excluded(n, round)]
            if able:
                count = max(1, round_up(rules.fraction * len(able)))
                chosen = random.Random(seed_for(self._settings.seed, "sample", round))
                return sorted(chosen.sample(able, count))
            if time.monotonic() > end:
                raise FleetError(
                    f"round {round}: no source node was there for {rules.wait:.0f} s; the last "
                    "checkpoint is kept, resume the run when nodes are back"
                )
            self._notice(f"round {round}: waiting for a source node")
            time.sleep(2)

    def _admit(self, round: int, node: int, reply: Message) -> Any:
        assert self._contract is not None
        expected = {
            "round": round,
            "examples": self._examples(node),
            "increment": self._method.model.specs,
            "change": self._method.model.specs,
            "buffers": self._method.buffers.specs,
        }
        return self._gate.admit(node, round, reply, self._contract.Up, expected)

    def _update(self, round: int, asked: int, replies: int) -> dict[str, float]:
        self._gate.end_round()
        if replies >= max(1, self._settings.round.quorum * asked):
            self._void = 0
            return self._method.step(round)
        self._method.discard()
        self._void += 1
        self._notice(f"round {round}: void, {replies} of {asked} replies are under the quorum")
        if self._void >= MAX_VOID:
            raise RunError(
                f"{MAX_VOID} rounds in a row had fewer replies than round.quorum="
                f"{self._settings.round.quorum:g}; the last checkpoint is kept"
            )
        return {}

    def _examples(self, node: int) -> int:
        enrolled = self._nodes.enrolled[node]
        return enrolled.support + enrolled.query

    def _evaluates(self, round: int) -> bool:
        every = self._settings.evaluation.every
        return round == self._settings.rounds or bool(every and round % every == 0)

    def _evaluate(self, round: int) -> tuple[dict[str, Any] | None, int, int]:
        self._nodes.discover(self._settings.round.wait)
        return judge(self._grid, self._nodes, self._settings, self._method, round, self._notice)

    def _diverged(self, round: int) -> None:
        if not math.isfinite(float(abs(self._method.model.vector).sum())):
            raise RunError(
                f"round {round}: the model is no longer finite; the checkpoint of round "
                f"{round - 1} is kept. Raise rho or lower lambda or the learning rate"
            )

    def _close(self, round: int, line: dict[str, Any]) -> None:
        """Checkpoint first, record second: a line is dropped on resume, a state is not made up."""
        loss = line.get("train", {}).get("loss")
        if loss is not None and loss < self._best:
            self._best = loss
            self._save_model("best")
        watch = Stopwatch()
        with watch.phase("checkpoint"):
            groups, notes = self._method.state()
            everything = {
                "method": notes,
                "knowledge": self._knowledge.state() if self._knowledge else {},
                "gate": self._gate.state(),
                "best": self._best if math.isfinite(self._best) else None,
                "enrolled": {str(node): self._examples(node) for node in sorted(self._enrolled)},
            }
            keep = self._settings.keep_checkpoints
            self._folder.save_checkpoint(round, groups, everything, keep)
        line["seconds"] |= watch.seconds
        time_now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._folder.append({"round": round, "time": time_now, **line})
        self.report()
        self._notice(summary(round, self._settings.rounds, line))

    def _save_model(self, name: str) -> None:
        path = self._folder.path / "models" / f"{name}.safetensors"
        save_model(path, self._method.model, self._method.buffers, self._card)


MAX_VOID = 5
"""Void rounds in a row after which a run gives up."""


def round_up(value: float) -> int:
    """Ceiling that forgives rounding: 0.3 * 10 is 3."""
    return math.ceil(value - 1e-9)


def summary(round: int, rounds: int, line: dict[str, Any]) -> str:
    """One line about a round."""
    parts = [f"round {round:>{len(str(rounds))}}/{rounds}"]
    if "asked" in line:
        parts.append(f"{line['replies']}/{line['asked']} replies")
    if line.get("train"):
        parts.append(f"loss {line['train']['loss']:.4f}")
    if evaluation := line.get("evaluation"):
        parts.append(
            f"targets {100 * evaluation['accuracy_before']:.1f} % before, "
            f"{100 * evaluation['accuracy_after']:.1f} % after adaptation"
        )
    if line.get("rejected"):
        parts.append(f"{len(line['rejected'])} rejected")
    parts.append(f"{sum(line['seconds'].values()):.1f} s")
    return " · ".join(parts)
