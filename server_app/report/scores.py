"""Figures that follow from a record: accuracies, their spread and differences, totals.

An accuracy is the mean over clients, weighted by their query images as it is recorded, and so is
its standard error. That of a difference is paired by client number where both runs evaluated the
same clients on the same data, and otherwise that of two independent means.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from server_app.runs.record import Evaluation, Round, Run

_APART = frozenset({"data.seed", "evaluation.every", "evaluation.sources"})
_ROUND = re.compile(r"\bround \d+")


@dataclass(frozen=True)
class Score:
    """Accuracy of one evaluation; shares from 0 to 1."""

    round: int
    before: float
    after: float
    std: float  # over clients
    error: float  # standard error of the mean over clients
    clients: int

    @property
    def gain(self) -> float:
        """What adaptation adds."""
        return self.after - self.before


@dataclass(frozen=True)
class Difference:
    """Accuracy after adaptation of one run minus that of another, as shares."""

    value: float
    error: float  # standard error
    paired: bool


@dataclass(frozen=True)
class Incident:
    """Replies that went missing or were rejected for one reason."""

    kind: str  # "missing", "rejected", "rejected evaluation" or "introduction", "not evaluated"
    reason: str
    count: int
    nodes: tuple[str, ...]
    rounds: tuple[int, int]  # first and last


def score(record: Round, evaluation: Evaluation) -> Score:
    """The figures of one evaluation."""
    clients = evaluation.clients
    return Score(
        record.round,
        evaluation.accuracy_before,
        evaluation.accuracy_after,
        evaluation.std_after,
        standard_error([c.accuracy_after for c in clients], [c.examples for c in clients]),
        len(clients),
    )


def standard_error(values: Sequence[float], weights: Sequence[float]) -> float:
    """Standard error of a weighted mean; s / sqrt(n) where all weights are equal.

    sqrt(n / (n - 1) * sum_i (w_i / sum w)^2 (x_i - mean)^2) over the pairs that are finite; NaN for
    fewer than two.
    """
    pairs = np.array(
        [p for p in zip(values, weights, strict=True) if math.isfinite(sum(p))], float
    ).reshape(-1, 2)
    n = len(pairs)
    if n < 2 or pairs[:, 1].sum() <= 0:
        return math.nan
    share = pairs[:, 1] / pairs[:, 1].sum()
    deviation = pairs[:, 0] - share @ pairs[:, 0]
    return math.sqrt(n / (n - 1) * float(np.sum((share * deviation) ** 2)))


def last(run: Run) -> Score | None:
    """The last evaluation."""
    if not run.evaluated:
        return None
    final = score(*run.evaluated[-1])
    if run.members:  # over seeds
        return replace(final, error=standard_error(finals(run), [1.0] * len(run.members)))
    return final


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What keeps accuracies of runs from being compared -> its values: data, model, rounds."""
    names = {
        key
        for run in runs
        for key in run.meta.settings
        if key.startswith(("data.", "evaluation.")) and key not in _APART
    }
    found = {key: [str(run.meta.settings.get(key, "–")) for run in runs] for key in sorted(names)}
    found["model"] = [str(run.meta.model.get("name", "–")) for run in runs]
    evaluated = [run for run in runs if run.evaluated]
    found["rounds"] = [str(run.evaluated[-1][0].round) for run in evaluated]
    unique = {key: list(dict.fromkeys(values)) for key, values in found.items()}
    return {key: values for key, values in unique.items() if len(values) > 1}


def best(run: Run) -> Score | None:
    """The evaluation with the highest accuracy after adaptation, the earliest of equals."""
    usable = [pair for pair in run.evaluated if math.isfinite(pair[1].accuracy_after)]
    return score(*max(usable, key=lambda p: p[1].accuracy_after)) if usable else None


def client_pairs(run: Run, base: Run) -> dict[str, tuple[float, float]]:
    """Client number -> accuracies after adaptation in ``base`` and in ``run``, last evaluations.

    Empty unless both evaluated the same clients on the same data.
    """
    if not run.evaluated or not base.evaluated or run.members or base.members:
        return {}
    if _data(run) != _data(base) or differing([run, base]):
        return {}
    mine, theirs = (
        {c.client: c.accuracy_after for c in r.evaluated[-1][1].clients} for r in (run, base)
    )
    if mine.keys() != theirs.keys():
        return {}
    return {client: (theirs[client], value) for client, value in mine.items()}


def difference(run: Run, base: Run) -> Difference | None:
    """How much better ``run`` ended than ``base``.

    None where either has no usable evaluation, or where ``differing`` finds anything. Means over
    the same seeds are paired by seed.
    """
    mine, theirs = last(run), last(base)
    if mine is None or theirs is None or not math.isfinite(mine.after - theirs.after):
        return None
    if differing([run, base]):
        return None
    if run.members and base.members and _seeds(run) == _seeds(base):
        each = [a - b for a, b in zip(finals(run), finals(base), strict=True)]
        error = standard_error(each, [1.0] * len(each))
        return Difference(mine.after - theirs.after, error, paired=True)
    pairs = client_pairs(run, base)
    if pairs:
        examples = {c.client: c.examples for c in run.evaluated[-1][1].clients}
        gains = [after - before for before, after in pairs.values()]
        error = standard_error(gains, [examples[client] for client in pairs])
        return Difference(mine.after - theirs.after, error, paired=True)
    error = math.hypot(mine.error, theirs.error)
    return Difference(mine.after - theirs.after, error, paired=False)


def first_round_at(run: Run, accuracy: float) -> int | None:
    """The first evaluated round whose accuracy after adaptation is at least ``accuracy``."""
    return next((r.round for r, e in run.evaluated if e.accuracy_after >= accuracy), None)


def ahead(run: Run, base: Run) -> tuple[int, int]:
    """In how many of the rounds after training began that both evaluated ``run`` is ahead."""
    theirs = {r.round: e.accuracy_after for r, e in base.evaluated}
    shared = [
        (e.accuracy_after, theirs[r.round])
        for r, e in run.evaluated
        if r.round > 0 and r.round in theirs
    ]
    return sum(mine > other for mine, other in shared), len(shared)


def diverged_at(run: Run) -> int | None:
    """The first round whose loss or accuracy was recorded as not a number."""
    for record in run.rounds:
        # A round without any reply has no loss, which is no divergence.
        values = [v for k, v in record.train.items() if k == "loss" and record.replies]
        if record.evaluation is not None:
            values.append(record.evaluation.accuracy_after)
        if any(not math.isfinite(value) for value in values):
            return record.round
    return None


def phase_seconds(run: Run) -> dict[str, float]:
    """Phase -> seconds of all rounds together, in the order of the record."""
    total: dict[str, float] = defaultdict(float)
    for record in run.rounds:
        for phase, seconds in record.seconds.items():
            if math.isfinite(seconds):
                total[phase] += seconds
    return dict(total)


def seconds(run: Run) -> float:
    """Seconds of all phases of all rounds."""
    return sum(phase_seconds(run).values())


def traffic(run: Run) -> tuple[int, int]:
    """Bytes down to the devices and up from them."""
    return sum(r.bytes_down for r in run.rounds), sum(r.bytes_up for r in run.rounds)


def lost(run: Run) -> dict[str, int]:
    """Replies to requests to train that did not reach the model, by what became of them."""
    counts = {
        "missing": sum(len(r.missing) for r in run.rounds),
        "rejected": sum(r.refused for r in run.rounds),
    }
    return {kind: number for kind, number in counts.items() if number}


def incidents(run: Run) -> list[Incident]:
    """Missing and rejected replies and missing evaluations by reason, the most frequent first."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for record in run.rounds:
        for missing in record.missing:
            found["missing", general(missing.reason)].append((missing.node, record.round))
        for rejected in record.rejected:
            reason = f"{rejected.field}: {rejected.reason}" if rejected.field else rejected.reason
            kind = "rejected" if rejected.step == "training" else f"rejected {rejected.step}"
            found[kind, general(reason)].append((rejected.node, record.round))
        for missing in record.evaluation_missing:
            found["not evaluated", general(missing.reason)].append((missing.node, record.round))
    rows = []
    for (kind, reason), cases in found.items():
        nodes = tuple(node for node, _ in Counter(node for node, _ in cases).most_common())
        rounds = [number for _, number in cases]
        rows.append(Incident(kind, reason, len(cases), nodes, (min(rounds), max(rounds))))
    return sorted(rows, key=lambda row: (-row.count, row.kind, row.reason))


def general(reason: str) -> str:
    """A reason without the number of its round, so that it can be counted."""
    return _ROUND.sub("a round", reason)


def spread(
    values: Sequence[Sequence[float]], low: float, high: float
) -> tuple[list[float], list[float]]:
    """Two percentiles of each of several samples; NaN where a sample has under two values."""
    lower, upper = [], []
    for sample in map(finite, values):
        pair = np.percentile(sample, [low, high]) if len(sample) > 1 else (math.nan, math.nan)
        lower.append(float(pair[0]))
        upper.append(float(pair[1]))
    return lower, upper


def keys(rounds: Iterable[Round], pick: Callable[[Round], dict[str, float]]) -> list[str]:
    """Names of all values that ``pick`` finds in any round, in order of appearance."""
    return list(dict.fromkeys(name for record in rounds for name in pick(record)))


def finite(values: Iterable[float]) -> list[float]:
    """Only the values that are finite."""
    return [value for value in values if math.isfinite(value)]


def finals(run: Run) -> list[float]:
    """Last accuracies of the members of a mean run, in the order of their seeds."""
    ordered = sorted(run.members, key=_seed)
    number = run.evaluated[-1][0].round
    return [next(e.accuracy_after for r, e in m.evaluated if r.round == number) for m in ordered]


def _seeds(run: Run) -> list[str]:
    return sorted(map(_seed, run.members))


def _seed(run: Run) -> str:
    return f"{run.meta.settings.get('seed')}/{run.meta.settings.get('data.seed')}"


def _data(run: Run) -> dict[str, object]:
    """What decides which images a client holds."""
    return {k: v for k, v in run.meta.settings.items() if k.startswith("data.")}
