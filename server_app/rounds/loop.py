"""The rounds of a run: train, evaluate, keep a checkpoint, record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.serverapp import Grid

from common.config import RunSettings
from common.errors import AugFlowerError, DivergedError, RunError
from common.modelfile import Card, save_model
from common.newcomer import NEWCOMER, save_newcomer
from common.seeds import for_client
from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.clients.messaging import Exchange
from server_app.clients.registry import Nodes, Plan
from server_app.method import Knowledge, Method
from server_app.monitoring.status import Status
from server_app.monitoring.throttle import Throttle
from server_app.report import verdict, words
from server_app.report.write import write_report
from server_app.rounds.evaluation import evaluate
from server_app.rounds.reasons import told
from server_app.rounds.timing import Stopwatch
from server_app.rounds.training import Training
from server_app.runs.folder import RunFolder
from server_app.runs.record import read_run
from server_app.saved import load, save
from server_app.transport.leaves import LeafGrid
from server_app.validation.gate import Gate

Notice = Callable[[str], None]

_NEW = -1
"""Stands for a client that no method has seen."""

PAGE_SHARE = 0.05
"""Share of the time that writing the page of a run may take; the last one is always written."""


@dataclass(eq=False)
class Rounds:
    """Drives one method over one fleet.

    Attributes
    ----------
    current: the round that goes on, or went on last.
    """

    _grid: Grid
    _settings: RunSettings
    _method: Method
    _knowledge: Knowledge | None
    _plan: Plan
    _folder: RunFolder
    _card: Card
    _notice: Notice
    _status: Status
    current: int = 0

    def __post_init__(self) -> None:
        settings, status, notice = self._settings, self._status, self._notice
        self._gate = Gate()
        self._nodes = Nodes(self._grid, self._plan, notice, status, settings.round.wait)
        self._exchange = Exchange(self._grid, self._nodes, settings.round, status, notice)
        self._training: Training | None = None
        if self._method.down is not None:
            self._training = Training(
                settings, self._method, self._nodes, self._exchange, self._gate, status, notice
            )
            if isinstance(self._grid, LeafGrid):
                self._grid.brief = self._training.brief
        self._page_throttle = Throttle(PAGE_SHARE)

    def run(self, start: int) -> None:
        """Wait for the fleet, then run rounds ``start`` to the last.

        ``start`` = 0 evaluates the untrained model first.

        Raises
        ------
        RunError: there is no model that could be evaluated.
        """
        if self._method.model is None and not self._method.personal:
            raise RunError(
                f"method {self._settings.method} has neither a global model nor personal ones; "
                "let its server half keep a model, or say that it is personal"
            )
        last, rules = self._settings.rounds, self._settings.round
        if start <= last:
            self._status.phase(start, "waiting")
            self._nodes.wait_for(rules.nodes, rules.wait)
        for round in range(start, last + 1):
            self._round(round)
        self._save_model("last", self._method.model, self._method.buffers)
        if self._method.model is None:
            self._notice("models are the clients' own: no model is written here")
        if self._method.personal:
            down = for_client(self._method.broadcast(last, _NEW), _NEW)
            save_newcomer(self._folder.path / NEWCOMER, down, self._card)
        self._evaluate()

    def end(self, how: str, **notes: Any) -> None:
        """Note that the run is finished, failed or stopped, with more for ``run.json``."""
        try:
            self._folder.finish(how, **notes)
        finally:
            self._status.phase(self.current, how)

    def report(self) -> None:
        """Write the run's page."""
        path = self._folder.path
        self.show("the page", lambda: write_report([path], path / "report.html", path.parent))

    def show(self, what: str, action: Callable[[], object]) -> None:
        """Do what is only for those who watch: whatever goes wrong in it must not end a run."""
        try:
            action()
        except Exception as error:
            said = str(error) if isinstance(error, AugFlowerError | OSError) else repr(error)
            self._notice(f"{what} could not be shown, the run goes on: {said}")

    def conclude(self) -> None:
        """Let the leaves go, write the run's page and say what became of the run."""
        if isinstance(self._grid, LeafGrid):
            self.show("the end to its leaves", self._grid.end)
        self.report()
        try:
            said = words.headline(read_run(self._folder.path))
        except Exception as error:  # how a run has ended must not depend on the words for it
            said = f"the record could not be read: {error}"
        self._notice(plain(said))

    def load_state(self, groups: dict[str, Any], notes: dict[str, Any]) -> None:
        """Take up a checkpoint.

        Raises
        ------
        RunError: it lacks something.
        """
        try:
            if self._training is not None:
                self._training.load_state(groups, notes["training"])
            load(self._method, (groups, notes["method"]))
            if self._knowledge is not None:
                self._knowledge.load_state(notes["knowledge"])
            self._gate.load_state(notes["gate"])
        except KeyError as error:
            raise RunError(
                f"{self._folder.path}: its checkpoint has no {error}, another release of AugFlower "
                "has written it; resume the run with that release, or begin a new one"
            ) from error

    def _evaluate(self) -> None:
        """A run that has lost its model has not finished, even if all its rounds are done."""
        run = read_run(self._folder.path)
        lost = verdict.divergence(run)
        if lost is not None:
            self.current = lost.round
            raise DivergedError(
                f"round {lost.round}: diverged, {lost.reason}; the models are kept. Raise rho, or "
                "lower the learning rate or lambda"
            )
        if reason := verdict.lacking(run):
            method = self._settings.method
            raise RunError(
                f"this was not {method}: {reason}; the models are kept. See docs/teachers.md, or "
                f"set {method}.lambda=0 if that is meant"
            )

    def _round(self, round: int) -> None:
        self.current = round
        watch = Stopwatch(lambda name: self._tell(round, name))
        line: dict[str, Any] = {"seconds": watch.seconds, "bytes_down": 0, "bytes_up": 0}
        if round > 0 and self._training is not None:
            line |= self._training.run(round, watch)
        elif round > 0:
            with watch.phase("update"):
                line["method"] = self._method.step(round, Replies(self._method))
        self._diverged(round)
        if round == 0 or self._settings.evaluates(round):
            with watch.phase("evaluate"):
                evaluated = evaluate(
                    self._exchange, self._nodes, self._gate, self._settings, self._method, round,
                    self._status,
                )  # fmt: skip
            for name in ("bytes_down", "bytes_up"):
                line[name] += evaluated.pop(name)
            line["rejected"] = line.get("rejected", []) + evaluated.pop("rejected")
            line |= evaluated
        line["rejected"] = line.get("rejected", []) + self._nodes.rejected()
        self._close(round, line, watch)

    def _tell(self, round: int, phase: str) -> None:
        if phase == "absorb":  # replies are taken in while others are still awaited
            phase = "train"
        if phase != "waiting":  # a look at who is there; if nobody is, ``Training`` says so
            self._status.phase(round, phase)

    def _diverged(self, round: int) -> None:
        vectors = [v for group in save(self._method)[0].values() for v in group.vectors.values()]
        if not all(math.isfinite(float(abs(v).sum())) for v in vectors if v.dtype.kind == "f"):
            raise DivergedError(
                f"round {round}: the model is no longer finite; the checkpoint of round "
                f"{round - 1} is kept. Raise rho or lower lambda or the learning rate"
            )

    def _close(self, round: int, line: dict[str, Any], watch: Stopwatch) -> None:
        """Checkpoint first, record second: what a crash between them loses is in the checkpoint."""
        training = self._training
        if training is not None and (best := training.safeguard.best.best(round)):
            self._save_model("best", *best)
        names = {str(node): name for node, name in self._nodes.names.items()}
        leaves = {str(node): leaf for node, leaf in self._nodes.leaves.items()}
        for key, now in (("nodes", names), ("leaves", leaves)):
            if now.items() - self._folder.meta.get(key, {}).items():
                self._folder.update(**{key: self._folder.meta.get(key, {}) | now})
        line = {"round": round, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **line}
        with watch.phase("checkpoint"):
            groups, notes = save(self._method)
            own, seen = training.state() if training else ({}, {})
            everything = {
                "method": notes,
                "knowledge": self._knowledge.state() if self._knowledge else {},
                "gate": self._gate.state(),
                "training": seen,
            }
            keep = self._settings.keep_checkpoints
            self._folder.save_checkpoint(round, groups | own, everything, line, keep)
        self._folder.append(line)
        self.show("the round", lambda: self._status.close(line))
        if self._page_throttle.due:
            with self._page_throttle.measured():
                self.report()
        self.show("the round", partial(self._say, round, line))

    def _say(self, round: int, line: dict[str, Any]) -> None:
        for text in told(line, self._nodes.name):
            self._notice(text)
        self._notice(summary(round, self._settings.rounds, line))

    def _save_model(self, name: str, model: Tensors | None, buffers: Tensors) -> None:
        if model is not None:  # else models are the clients' own
            path = self._folder.path / "models" / f"{name}.safetensors"
            save_model(path, model, buffers, self._card)


def plain(text: str) -> str:
    """For a console: with spaces that are none but spaces."""
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def summary(round: int, rounds: int, line: dict[str, Any]) -> str:
    """One line about a round."""
    parts = [f"round {round:>{len(str(rounds))}}/{rounds}"]
    if "asked" in line:
        parts.append(f"{line['replies']}/{line['asked']} replies")
        if line["asked"] and not line["method"] and not line["train"]:
            parts.append("void, the model stays")
    if line.get("method", {}).get("fell_back"):
        parts.append("fell back to the best model so far")
    if line.get("train"):
        parts.append(f"loss {line['train']['loss']:.4f}")
    for name, title in (("evaluation", "targets"), ("evaluation_sources", "sources")):
        if evaluated := line.get(name):
            parts.append(
                f"{title} {100 * evaluated['accuracy_before']:.1f} % before, "
                f"{100 * evaluated['accuracy_after']:.1f} % after adaptation "
                f"({100 * evaluated['over_clients']['accuracy_after']:.1f} % over clients)"
            )
    if line.get("rejected"):
        parts.append(f"{len(line['rejected'])} rejected")
    parts.append(f"{sum(line['seconds'].values()):.1f} s")
    return " · ".join(parts)
