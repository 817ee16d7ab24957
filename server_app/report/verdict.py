"""What became of a run: whether it diverged, whether training helped, what is known of its end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from server_app.report import scores
from server_app.report.scales import significant
from server_app.runs.record import Evaluation, Round, Run

GROWN = 100.0
"""Times the loss that a run began with, or 1 nat where it began with less: its model is lost."""

_LOSSES = frozenset({"loss_before", "loss_after"})


@dataclass(frozen=True)
class Divergence:
    """A model that was lost."""

    round: int  # in which it showed
    reason: str


def divergence(run: Run) -> Divergence | None:
    """Whether a run diverged, as its record tells.

    That is a loss or an accuracy that is no number, a last loss ``GROWN`` times the first, or a
    last evaluation without any evaluation, of which one was rejected because of its loss. Losses
    are medians over clients, so that one that reports a wrong one decides nothing.
    """
    if run.meta.diverged is not None:
        return Divergence(run.meta.diverged, run.meta.error or "its loss grew out of all bounds")
    if (number := scores.diverged_at(run)) is not None:
        return Divergence(number, "its loss or accuracy is not a number")
    return _grown(run) or _unbearable(run)


def lacking(run: Run) -> str:
    """Why a run is not what its method promises; empty if it is.

    A method that learns from teachers on the devices records how many devices had one.
    """
    counts = [r.method["distilled"] for r in run.rounds if "distilled" in r.method]
    wanted = run.meta.settings.get(f"{run.meta.method}.lambda", 1.0) != 0
    if counts and wanted and not any(counts):
        return "no device had a teacher, so that all learned from their labels alone"
    return ""


def untrained(run: Run) -> scores.Score | None:
    """The evaluation of the model that the run began with, after adaptation as all others."""
    first = next(iter(run.evaluated), None)
    return scores.score(*first) if first and first[0].round == 0 else None


def gained(run: Run) -> scores.Difference | None:
    """What training has added to the untrained model; None where either was not evaluated."""
    start, final = untrained(run), scores.last(run)
    if start is None or final is None or final.round == 0:
        return None
    if not math.isfinite(final.after - start.after):
        return None
    before = {c.client: c.accuracy_after for c in run.evaluated[0][1].clients}
    after = {c.client: c for c in run.evaluated[-1][1].clients}
    error = math.hypot(start.error, final.error)
    if before.keys() == after.keys():
        pairs = [c.accuracy_after - before[name] for name, c in after.items()]
        error = scores.standard_error(pairs, [c.examples for c in after.values()])
    return scores.Difference(final.after - start.after, error, paired=before.keys() == after.keys())


def unevaluated(run: Run) -> Round | None:
    """The last round whose evaluation was due and brought nothing, if none has done so since."""
    since = run.evaluated[-1][0].round if run.evaluated else -1
    late = [r for r in run.rounds if r.round > since and (r.evaluation_missing or _refused(r))]
    return late[-1] if late else None


def _refused(record: Round) -> list[str]:
    """Fields for which evaluations were rejected."""
    return [entry.field for entry in record.rejected if entry.step == "evaluation"]


def _unbearable(run: Run) -> Divergence | None:
    late = unevaluated(run)
    if late is None or not _LOSSES & set(_refused(late)):
        return None
    said = next(e.reason for e in late.rejected if e.field in _LOSSES and e.step == "evaluation")
    return Divergence(late.round, f"its last evaluation was rejected: the loss {said}")


def _grown(run: Run) -> Divergence | None:
    trained = [(r.round, value) for r in run.rounds if (value := _trained_loss(r)) is not None]
    evaluated = [
        (r.round, value) for r, e in run.evaluated if (value := _evaluated_loss(e)) is not None
    ]
    for what, series in (("training loss", trained), ("loss of evaluated clients", evaluated)):
        if len(series) < 2:
            continue
        (_, first), (number, last) = series[0], series[-1]
        if last > GROWN * max(first, 1.0):
            text = f"its {what} is {significant(last)} and was {significant(first)}"
            return Divergence(number, text)
    return None


def _trained_loss(record: Round) -> float | None:
    """Of the clients; where none trains, of what the server learns from."""
    if (loss := _middle(part.loss for part in record.clients)) is not None:
        return loss
    if record.asked:
        return None
    return _middle([record.method.get("transfer_loss", math.nan)])


def _evaluated_loss(evaluation: Evaluation) -> float | None:
    return _middle(c.loss_after for c in evaluation.clients)


def _middle(values: Iterable[float]) -> float | None:
    usable = scores.finite(values)
    return median(usable) if usable else None
