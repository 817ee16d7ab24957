"""What the report says in words: headline, the sentences below it, and names of runs."""

import math
from collections import Counter
from collections.abc import Sequence

from server_app.runs import scores
from server_app.runs.record import Run
from server_app.runs.scales import NBSP, PERCENT, POINTS, Unit, byte_unit, fixed, significant
from server_app.runs.scores import Score

_CLEAR = 2.0  # standard errors beyond which a difference is called one


def headline(run: Run) -> str:
    """What happened in one run, in one sentence."""
    final, diverged = scores.last(run), scores.diverged_at(run)
    done = run.rounds[-1].round if run.rounds else 0
    if diverged is not None:
        best = scores.best(run)
        past = f"; before that it reached {PERCENT.text(best.after)}" if best else ""
        return f"The run diverged in round {diverged}{past}"
    if run.meta.status == "failed":
        past = f", at {PERCENT.text(final.after)}" if final else ""
        return f"The run failed after {count(done, 'round')}{past}"
    if final is not None:
        when = f"Round {final.round}: " if run.meta.status == "running" else ""
        reached, whom = when + PERCENT.text(final.after), on_clients(run, final)
        if not adapts(run):
            return f"{reached} on {whom}"
        gain = POINTS.signed(final.gain)
        return f"{reached} after adaptation on {whom}, {gain} over no adaptation"
    if run.meta.status == "running":
        return (
            f"{count(done, 'round')} done, nothing evaluated yet" if done else "The run has begun"
        )
    return f"{count(done, 'round')} of training, nothing evaluated"


def sentences(run: Run) -> list[str]:
    """What stands below the headline of one run."""
    meta, final, best = run.meta, scores.last(run), scores.best(run)
    said = []
    if final and math.isfinite(final.after) and math.isfinite(final.error):
        said.append(
            f"The mean over clients is known to ±{NBSP}{_points(final.error)} (standard error)."
        )
    if final and best and best.round != final.round and math.isfinite(final.after):
        said.append(f"The best evaluation was {PERCENT.text(best.after)} in round {best.round}.")
    if meta.private_model:
        said.append("A private model on the server took part in training.")
    if meta.resumed_from:
        said.append(f"The run was resumed from {meta.resumed_from}.")
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
    partner = private_partner(runs, base)
    if partner is not None and {partner, base} <= set(usable):
        return _private_headline(runs[partner], runs[base], alone=len(runs) == 2)
    finals = {i: _final(runs[i]) for i in usable}
    top = max(usable, key=lambda i: finals[i].after)
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
    if partner is None:
        return []
    run, other, said = runs[partner], runs[base], []
    gain, final = scores.difference(run, other), scores.last(other)
    if gain is not None and math.isfinite(gain.error):
        how = "paired by client" if gain.paired else "the runs judged different clients"
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
        return [f"{'with' if r.meta.private_model else 'without'} private model" for r in runs]
    helped = {run.meta.method for run in runs if run.meta.private_model}
    names = [
        run.meta.method
        + (" without PM" if run.meta.method in helped and not run.meta.private_model else "")
        for run in runs
    ]
    if len(set(names)) < len(names):
        names = [run.meta.run for run in runs]
    seen: Counter[str] = Counter()
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
    """Whom the model was judged on."""
    number = clients(run, final)
    return f"{number} that never took part" if run.meta.clients.get("targets") else number


def clients(run: Run, final: Score) -> str:
    """How many clients the model was judged on; all targets where they were not listed."""
    return count(final.clients or run.meta.clients.get("targets", 0), "client")


def count(number: int, noun: str) -> str:
    """``1 round``, ``2 rounds``."""
    return f"{number:,}{NBSP}{noun}{'' if number == 1 else 's'}".replace(",", "\u202f")


def size(amount: float) -> str:
    """Bytes in a decimal unit."""
    return byte_unit([amount]).text(amount)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
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
