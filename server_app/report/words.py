"""What the report says in words: headline, the sentences below it, and names of runs."""

import math
from collections import Counter
from collections.abc import Sequence

from server_app.report import scores, verdict
from server_app.report.scales import NBSP, PERCENT, POINTS, Unit, byte_unit, fixed, significant
from server_app.report.scores import Score
from server_app.runs.record import Run

_CLEAR = 2.0  # standard errors beyond which a difference is called one


def headline(run: Run) -> str:
    """What happened in one run, in one sentence; what went wrong comes first."""
    final, lost = scores.last(run), verdict.divergence(run)
    done, running = run.rounds[-1].round if run.rounds else 0, run.meta.status == "running"
    if lost is not None:
        earlier = [
            e.accuracy_after
            for r, e in run.evaluated
            if 0 < r.round < lost.round and not r.fell_back  # else it is an older model's
        ]
        top = max(scores.finite(earlier), default=None)
        start = verdict.untrained(run)
        if top is None or (start is not None and top <= start.after):  # nothing that it has learned
            return f"The run diverged in round {lost.round}"
        past = f"; before that it reached {PERCENT.text(top)}"
        return f"The run diverged in round {lost.round}{past}"
    if done and (lacking := verdict.lacking(run)):
        return f"This {'is' if running else 'was'} not {run.meta.method}: {lacking}"
    if run.meta.status == "failed":
        past = f", at {PERCENT.text(final.after)}" if final and final.round else ""
        return f"The run failed after {count(done, 'round')}{past}"
    if final is None or (final.round == 0 and done > 0):
        return _nothing_evaluated(run, done)
    late = None if running else verdict.unevaluated(run)
    if late is not None:
        return (
            f"The model of round {late.round} was not evaluated; that of round {final.round} "
            f"reached {PERCENT.text(final.after)} on {on_clients(run, final)}"
        )
    when = f"Round {final.round}: " if running else ""
    adapted = " after adaptation" if adapts(run) else ""
    said = f"{when}{PERCENT.text(final.after)}{adapted} on {on_clients(run, final)}"
    if final.round == 0:
        return f"The untrained model: {said.removeprefix(when)}"
    return _with_gain(said, verdict.gained(run))


def sentences(run: Run) -> list[str]:
    """What stands below the headline of one run."""
    meta, final, best = run.meta, scores.last(run), scores.best(run)
    said = []
    lost = verdict.divergence(run)
    if lost is not None and not meta.error:
        said.append(f"It diverged: {lost.reason}.")
    said += _evaluated_sentences(run, lost is not None)
    if final and best and best.round != final.round and math.isfinite(final.after):
        said.append(
            f"The best evaluation was {PERCENT.text(best.after)} in round {best.round}, "
            f"the last {PERCENT.text(final.after)} in round {final.round}."
        )
    if meta.private_model:
        said.append("A private model on the server took part in training.")
    if meta.error:
        said.append(f"It ended with: {meta.error}")
    if meta.status == "stopped":
        said.append("It was stopped before its end.")
    return said


def comparison_headline(runs: Sequence[Run], names: Sequence[str], base: int) -> str:
    """What the comparison shows, in one sentence."""
    usable = [i for i, run in enumerate(runs) if (s := scores.last(run)) and math.isfinite(s.after)]
    if not usable:
        return f"{len(runs)} runs, none with an evaluation yet"
    if what := scores.differing([runs[i] for i in usable]):
        named = [f"{key} ({', '.join(values)})" for key, values in list(what.items())[:3]]
        more = f" and {len(what) - 3} more" if len(what) > 3 else ""
        reached = [f"{names[i]} {PERCENT.text(_final(runs[i]).after)}" for i in usable[:3]]
        return (
            f"These runs differ in {', '.join(named)}{more}, so that their accuracies do not "
            f"compare: {', '.join(reached)}" + (" ..." if len(usable) > 3 else "")
        )
    partner = private_partner(runs, base)
    finals = {i: _final(runs[i]) for i in usable}
    top = max(usable, key=lambda i: finals[i].after)
    # Where a third run is ahead of both, what the private model adds is not the news.
    if partner is not None and {partner, base} <= set(usable) and top in (partner, base):
        return _private_headline(runs[partner], runs[base], alone=len(runs) == 2)
    said = f"{names[top]} ends highest: {PERCENT.text(finals[top].after)}"
    said += " after adaptation" if adapts(runs[top]) else ""
    others = [i for i in usable if i != top]
    if not others:
        return said
    second = max(others, key=lambda i: finals[i].after)
    lead = scores.difference(runs[top], runs[second])
    if lead is not None and math.isfinite(lead.error) and lead.value < _CLEAR * lead.error:
        return f"{said}, not clearly ahead of {names[second]} ({_with_error(lead)})"
    gap = POINTS.text(finals[top].after - finals[second].after)
    return f"{said}, {gap} over {names[second]}"


def comparison_sentences(runs: Sequence[Run], names: Sequence[str], base: int) -> list[str]:
    """What stands below the headline of a comparison."""
    partner = private_partner(runs, base)
    if partner is None or scores.differing(runs):
        return []
    run, other, said = runs[partner], runs[base], list[str]()
    ends = [s.after if (s := scores.last(r)) else math.nan for r in runs]
    if max(ends, default=math.nan) > max(ends[partner], ends[base]):
        said.append(f"{_private_headline(run, other, alone=False)}.")
    gain, final = scores.difference(run, other), scores.last(other)
    if gain is not None and math.isfinite(gain.error):
        by = "seed" if run.members else "client"
        how = f"paired by {by}" if gain.paired else "the runs evaluated different clients"
        said.append(f"The standard error of the difference is {_points(gain.error)} ({how}).")
    wins, shared = scores.ahead(run, other)
    if shared > 1:
        every = "every one" if wins == shared else f"{wins}"
        said.append(f"With it the run is ahead in {every} of {shared} evaluations.")
    if final and (reached := scores.first_round_at(run, final.after)) is not None:
        said.append(
            f"It reaches in round {reached} what the run without it ends with in round "
            f"{final.round}."
        )
    return said


def labels(runs: Sequence[Run]) -> list[str]:
    """A short name for each run that tells it from the others."""
    methods = {run.meta.method for run in runs}
    if len(runs) == 2 and len(methods) == 1 and len({r.meta.private_model for r in runs}) == 2:
        return [
            f"{'with' if r.meta.private_model else 'without'} private model"
            + (f", {len(r.members)} seeds" if r.members else "")
            for r in runs
        ]
    helped = {run.meta.method for run in runs if run.meta.private_model}
    names = [
        run.meta.method
        + (" without PM" if run.meta.method in helped and not run.meta.private_model else "")
        for run in runs
    ]
    if len(set(names)) < len(names):
        names = [run.meta.run for run in runs]
    seen: Counter[str] = Counter()
    counts = [len(run.members) for run in runs]
    names = [f"{name}, {n} seeds" if n else name for name, n in zip(names, counts, strict=True)]
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = f"{name} ({seen[name]})" if seen[name] > 1 else name
    return names


def base_of(runs: Sequence[Run]) -> int:
    """The run that the others are compared with: one without the private model, or the first."""
    helped = {run.meta.method for run in runs if run.meta.private_model}
    for i, run in enumerate(runs):
        if not run.meta.private_model and run.meta.method in helped:
            return i
    return 0


def private_partner(runs: Sequence[Run], base: int) -> int | None:
    """The first run that has the private model and otherwise the method of the run ``base``."""
    if runs[base].meta.private_model:
        return None
    same = (
        i
        for i, run in enumerate(runs)
        if run.meta.private_model and run.meta.method == runs[base].meta.method
    )
    return next(same, None)


def adapts(run: Run) -> bool:
    """Whether evaluation adapts the model at all."""
    return bool(run.meta.settings.get("evaluation.steps", 1) != 0)


def on_clients(run: Run, final: Score) -> str:
    """Whom the model was evaluated on."""
    number = clients(run, final)
    return f"{number} that never took part" if run.meta.clients.get("targets") else number


def clients(run: Run, final: Score) -> str:
    """How many clients the model was evaluated on; all targets where they were not listed."""
    return count(final.clients or run.meta.clients.get("targets", 0), "client")


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 round``, ``2 rounds``."""
    said = noun if number == 1 else plural or f"{noun}s"
    return f"{number:,}{NBSP}{said}".replace(",", "\u202f")


def size(amount: float) -> str:
    """Bytes in a decimal unit."""
    return byte_unit([amount]).text(amount)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return Unit("ms", 1e-3, 0).text(seconds)
    if seconds < 59.5:
        return Unit("s", 1, 1 if seconds < 10 else 0).text(seconds)
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def loss(value: float) -> str:
    """A loss in three decimals, a large one in three digits."""
    return fixed(value, 3) if abs(value) < 1000 else significant(value)


def metric(name: str) -> str:
    """The key of a metric as text."""
    known = {"kl": "KL", "crd": "CRD", "pm": "PM"}
    words = [known.get(word, word) for word in name.split("_")]
    if words[0] == "transfer" and len(words) > 1:
        words[0] = "transfer:"
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def difference_text(found: scores.Difference | None) -> str:
    """A difference in points with its standard error."""
    return "–" if found is None else _with_error(found)


def _nothing_evaluated(run: Run, done: int) -> str:
    if run.meta.status == "running":
        if not done:
            return "The run has begun"
        return f"{count(done, 'round')} done, the trained model was not evaluated yet"
    return f"{count(done, 'round')} of training, the trained model was never evaluated"


def _with_gain(said: str, gain: scores.Difference | None) -> str:
    """An accuracy beside that of the untrained model; worse comes first."""
    if gain is None:
        return said
    clear = not abs(gain.value) < _CLEAR * gain.error
    if gain.value < 0 and clear:
        below = POINTS.text(-gain.value)
        return f"Training made the model worse by {below}: {said}"
    if not clear or gain.value == 0:
        return f"Training made no clear difference: {said}"
    return f"{said}, {POINTS.signed(gain.value)} over the untrained model"


def _evaluated_sentences(run: Run, lost: bool) -> list[str]:
    """What the last evaluation says, and what it is worth."""
    said: list[str] = []
    final, start = scores.last(run), verdict.untrained(run)
    if final is None or not math.isfinite(final.after):
        return said
    if final.round == 0 or lost:
        if start is not None:
            said.append(f"The untrained model had {PERCENT.text(start.after)}.")
        return said
    gain = verdict.gained(run)
    if start is not None and gain is not None:
        error = f", a difference of {_with_error(gain)} points" if math.isfinite(gain.error) else ""
        said.append(f"The untrained model had {PERCENT.text(start.after)}{error}.")
    if adapts(run):
        said.append(
            f"Adaptation itself makes {PERCENT.text(final.after)} of {PERCENT.text(final.before)}."
        )
    if math.isfinite(final.error):
        said.append(
            f"The mean over clients is known to ±{NBSP}{_points(final.error)} (standard error)."
        )
    return said


def _private_headline(run: Run, base: Run, *, alone: bool) -> str:
    ours, theirs = _final(run), _final(base)
    gain = scores.difference(run, base)
    both = (
        f"{PERCENT.text(ours.after)} with it, {PERCENT.text(theirs.after)} without, "
        f"on {on_clients(run, ours)}"
    )
    if gain is None or abs(gain.value) < _CLEAR * gain.error:
        return f"The private model makes no clear difference: {both}"
    verb = "adds" if gain.value > 0 else "costs"
    whom = "" if alone else f" {'to' if gain.value > 0 else 'in'} {run.meta.method}"
    return f"The private model {verb} {POINTS.text(abs(gain.value))}{whom}: {both}"


def _final(run: Run) -> Score:
    final = scores.last(run)
    assert final is not None
    return final


def _with_error(found: scores.Difference) -> str:
    if not math.isfinite(found.error):
        return POINTS.signed(found.value)
    return f"{POINTS.signed(found.value).split(NBSP)[0]} ±{NBSP}{fixed(found.error * 100, 1)}"


def _points(share: float) -> str:
    return POINTS.text(share)
