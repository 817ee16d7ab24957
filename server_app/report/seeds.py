"""Runs that differ in their seeds alone: one line, the mean over seeds, with a band."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from statistics import fmean

from server_app.runs.record import Evaluation, Round, Run

SEEDS = ("seed", "data.seed")
_FREE = frozenset(
    {*SEEDS, "run-name", "resume", "keep-checkpoints", "round.wait", "round.deadline"}
)  # fmt: skip
_BARE = re.compile(r"([-_. ]+seed[-_. ]*\d*)?[-_. ]*$")
"""What a sweep's folders have of their seeds in common."""

_FIGURES = (
    "accuracy_before", "accuracy_after", "loss_before", "loss_after", "std_after", "examples",
)  # fmt: skip


def seeds_of(run: Run) -> tuple[object, ...]:
    """What tells a run from others of the same settings."""
    return tuple(run.meta.settings.get(name) for name in SEEDS)


def grouped(runs: Sequence[Run]) -> list[Run]:
    """Finished runs that differ in their seeds alone as one, in the order of their first."""
    groups: dict[str, list[Run]] = {}
    for i, run in enumerate(runs):
        key = _settings(run) if run.meta.status == "finished" else str(i)
        if any(seeds_of(other) == seeds_of(run) for other in groups.get(key, [])):
            key = f"{key} {i}"
        groups.setdefault(key, []).append(run)
    return [average(members) if len(members) > 1 else members[0] for members in groups.values()]


def average(members: Sequence[Run]) -> Run:
    """The mean run: rounds that all have, with the means of their figures.

    Requests, replies and what was lost are added up; single clients are left out, for their
    images differ from seed to seed.
    """
    meta = members[0].meta
    by_round = [{r.round: r for r in run.rounds} for run in members]
    shared = sorted(set.intersection(*(set(rounds) for rounds in by_round)))
    rounds = [_mean([rounds[number] for rounds in by_round]) for number in shared]
    settings = {k: v for k, v in meta.settings.items() if k not in SEEDS}
    columns = zip(*(run.meta.run for run in members), strict=False)
    letters = [column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns)]
    name = _BARE.sub("", "".join(letters)) or meta.run
    latest = max(run.meta.started for run in members)
    averaged = meta.model_copy(update={"run": name, "settings": settings, "started": latest})
    return replace(members[0], meta=averaged, rounds=rounds, members=tuple(members))


def _settings(run: Run) -> str:
    kept = {k: v for k, v in run.meta.settings.items() if k not in _FREE}
    return json.dumps([run.meta.method, run.meta.private_model, run.meta.model, kept], default=str)


def _mean(rounds: Sequence[Round]) -> Round:
    def over(pick: Callable[[Round], Mapping[str, float]]) -> dict[str, float]:
        return {k: fmean(pick(r)[k] for r in rounds) for k in pick(rounds[0]) if _all(k, pick)}

    def _all(key: str, pick: Callable[[Round], Mapping[str, float]]) -> bool:
        return all(key in pick(r) for r in rounds)

    return Round(
        round=rounds[0].round,
        seconds=over(lambda r: r.seconds),
        bytes_down=round(fmean(r.bytes_down for r in rounds)),
        bytes_up=round(fmean(r.bytes_up for r in rounds)),
        replies=sum(r.replies for r in rounds),
        asked=sum(r.asked for r in rounds),
        missing=[entry for r in rounds for entry in r.missing],
        rejected=[entry for r in rounds for entry in r.rejected],
        train=over(lambda r: r.train),
        method=over(lambda r: r.method),
        evaluation=_evaluated([r.evaluation for r in rounds]),
        evaluation_sources=_evaluated([r.evaluation_sources for r in rounds]),
        evaluation_missing=[entry for r in rounds for entry in r.evaluation_missing],
    )


def _evaluated(evaluations: Sequence[Evaluation | None]) -> Evaluation | None:
    found = [evaluation for evaluation in evaluations if evaluation is not None]
    if len(found) < len(evaluations):
        return None
    return Evaluation(**{name: fmean(getattr(e, name) for e in found) for name in _FIGURES})
