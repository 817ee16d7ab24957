"""What becomes of a round: a step, nothing, or a return to the best model so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import DivergedError, RunError
from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.method import Method
from server_app.rounds.best_model import BestModel
from server_app.saved import State
from server_app.validation.gate import PAUSE, Gate

MAX_VOID = 5
"""Void rounds in a row after which a run gives up."""

MAX_VAIN = 3
"""Times that a run goes back to the same model, with nobody and nothing to blame, and gives up."""

PROOF = 3
"""Rejected replies by which a single round casts doubt on the model; with fewer, the round before
must have been void as well."""

ADVICE = "raise rho or lower the learning rate"

Back = dict[str, Any]
"""``round`` whose model the run went back to, ``reason``, and the ``nodes`` set aside for it."""


class Safeguard:
    """Decides on a round by its replies: how many came, how many were rejected, what they tell.

    One device may lie about its size; if most are rejected for it at once, it is the model that is
    at fault, and they are not. The nodes whose replies were unusual since the best model, though
    not too much to be let pass, are then set aside for a while.

    Attributes
    ----------
    best: the best model so far.
    """

    def __init__(
        self,
        method: Method,
        gate: Gate,
        quorum: float,
        name: Callable[[int], str],
        notice: Callable[[str], None],
    ) -> None:
        self._method = method
        self._gate = gate
        self._quorum = quorum
        self._name = name
        self._notice = notice
        self._void = 0
        self.best = BestModel()

    def close(
        self, round: int, asked: int, replies: Replies, grown: Sequence[Mapping[str, str]]
    ) -> tuple[dict[str, float], Back | None]:
        """What is worth recording of a round, and whether the run went back in it.

        Parameters
        ----------
        asked: number of clients that were asked to train.
        replies: those that were admitted.
        grown: entries on replies to train that were rejected for what grows without bound when a
            run diverges.

        Raises
        ------
        RunError: too many rounds in a row were void; a DivergedError if the model is why, or is
            lost again and again.
        """
        method, best, count = self._method, self.best, len(replies)
        doubt = len(grown) > count and (len(grown) >= PROOF or self._void > 0)
        if doubt or count < max(1, self._quorum * asked):
            self._void += 1
            self._notice(f"round {round}: void, {count} of {asked} replies are under the quorum")
            self._give_up(grown, asked)
            if doubt:
                self._gate.forgive(round, [int(entry["node"]) for entry in grown])
                reason = f"{len(grown)} of {len(grown) + count} replies are far from usual"
                return self._doubt(round, reason)
            self._gate.end_round()
            return {}, None
        self._void = 0
        loss = replies.loss
        excess = best.excess(round, loss, method.model, method.buffers)
        if best.round == round:
            self._gate.trust()
        if excess > method.lost and not best.there:
            metrics, back = self._doubt(round, f"the loss is {loss:.3g}, {best.first:.3g} at first")
            return {"loss": loss} | metrics, back
        self._gate.end_round()
        best.there = False
        metrics = method.step(round, replies)
        return metrics if math.isnan(loss) else {"loss": loss} | metrics, None

    def _doubt(self, round: int, reason: str) -> tuple[dict[str, float], Back | None]:
        """The model is at fault; if it is the best one, what was usual is."""
        self._gate.drop_round()
        best = self.best
        if best.buffers is None or best.there:
            self._gate.forget()
            return {}, None
        nodes = self._gate.blame(round)
        careful = self._method.go_back(best.model, best.buffers, bool(nodes))
        best.there = True
        best.vain += not (nodes or careful)
        text = f"round {round}: {reason}; the model goes back to that of round {best.round}"
        if best.vain >= MAX_VAIN:
            raise DivergedError(f"{text} for the {MAX_VAIN}. time in vain: diverged; {ADVICE}")
        if nodes:
            names = ", ".join(map(self._name, nodes))
            text += f", and {names}, unusual since then, set aside for {PAUSE} rounds"
        self._notice(text)
        back = {"round": best.round, "reason": reason, "nodes": [str(node) for node in nodes]}
        return {"fell_back": 1.0}, back

    def _give_up(self, grown: Sequence[Mapping[str, str]], asked: int) -> None:
        if self._void < MAX_VOID:
            return
        said = (
            f"{MAX_VOID} rounds in a row had fewer replies than round.quorum="
            f"{self._quorum:g}; the last checkpoint is kept"
        )
        if 2 * len(grown) >= asked:
            raise DivergedError(
                f"{said}. {len(grown)} were rejected for what grows when a run diverges "
                f"({grown[0]['field']} {grown[0]['reason']}): {ADVICE}"
            )
        raise RunError(said)

    def state(self) -> State:
        """All that is needed to go on."""
        groups, notes = self.best.state()
        return groups, {"best": notes, "void": self._void}

    def load_state(self, groups: Mapping[str, Tensors], notes: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self.best.load_state(groups, notes["best"])
        self._void = notes["void"]
