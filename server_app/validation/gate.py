"""Every reply is checked before it may touch the model.

Flower checks nothing: one NaN, a negative count or an extra key spoils or ends a run. Here a bad
reply is rejected with node, field and reason, the round goes on, and a node that offends again
and again is set aside for a while. ``docs/gate.md`` lists the checks and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Generic, TypeVar

from server_app.aggregation.expected import Expected
from server_app.validation.errors import Rejected
from server_app.validation.outliers import DEVIATIONS, DOUBTFUL, WARM_UP, OutlierBound

OFFENCES = 3
"""Rejections in a row after which a node is set aside; after a pause, one is enough."""

PAUSE = 10
"""Rounds for which it is."""

MORE = (
    "; if these are its own images, it has lost the list of those that it began the run with: give "
    "it a state-folder before the next run"
)
"""Added to a rejection: what to do where a device comes with more images than it had."""

Sizes = dict[str, float]
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Candidate(Generic[Seen]):
    """A reply of which all is right but, perhaps, its sizes."""

    node: int
    seen: Seen
    sizes: Sizes


@dataclass
class _Record:
    row: int = 0  # rejections in a row
    until: int = 0  # first round in which the node is asked again
    rejected: int = 0  # rejections in all


class Gate:
    """Admits replies, counts rejections, sets repeat offenders aside.

    Replies that are larger than usual, and all as long as little is known, are held back and
    compared with the others of their round before they count; ``docs/gate.md`` says how.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, _Record] = {}
        self._bounds: dict[str, OutlierBound] = {}
        self._limits: dict[str, tuple[float, float]] = {}  # too much, and doubtful
        self._plain: dict[str, float] = {}
        self._sizes: dict[str, list[float]] = {}
        self._admitted = 0
        self._doubtful: set[int] = set()
        self._doubtful_now: set[int] = set()

    @property
    def rejections(self) -> dict[int, int]:
        """Node -> replies rejected so far; nodes without any are not listed."""
        return {node: record.rejected for node, record in self._nodes.items()}

    @property
    def learning(self) -> bool:
        """Whether so little is known that all replies are held back."""
        return self._admitted < WARM_UP

    def set_aside(self, round: int) -> dict[int, int]:
        """Node that is set aside in this round -> the round in which it is asked again."""
        return {n: record.until for n, record in self._nodes.items() if round < record.until}

    def admit(self, round: int, node: int, examine: Callable[[], tuple[Seen, Sizes]]) -> Seen:
        """What a look at a reply has seen, if nothing is wrong with it; compared with none.

        Raises
        ------
        Rejected: with the field and the reason.
        """
        candidate = self.look(round, node, examine)
        self.compare([candidate])
        return self.decide(round, candidate)

    def look(
        self, round: int, node: int, examine: Callable[[], tuple[Seen, Sizes]]
    ) -> Candidate[Seen]:
        """A reply after all checks but those of its sizes.

        Parameters
        ----------
        examine: these checks; gives what it has seen, and sizes to compare with what is usual.

        Raises
        ------
        Rejected: with the field and the reason.
        """
        try:
            seen, sizes = examine()
            for name, size in sizes.items():
                if not math.isfinite(size):
                    raise Rejected(name, "holds values that are not finite", excessive=True)
        except Rejected:
            self.reject(round, node)
            raise
        return Candidate(node, seen, sizes)

    def plain(self, candidate: Candidate[Any]) -> bool:
        """Whether a reply need not be held back: by recent rounds nothing of it is large."""
        if self.learning:
            return False
        for name, size in candidate.sizes.items():
            if name not in self._plain:
                # Of the first round that is known what has been admitted of this one.
                past = self._bounds.get(name)
                known = past or OutlierBound([self._sizes[name]])
                self._plain[name] = known.limit(DOUBTFUL)
            if size > self._plain[name]:
                return False
        return True

    def compare(self, candidates: Sequence[Candidate[Any]]) -> None:
        """Let replies of one round have a say in the bounds, before they are decided on."""
        for name in {name for candidate in candidates for name in candidate.sizes}:
            sizes = [c.sizes[name] for c in candidates if name in c.sizes]
            now = [*self._sizes.get(name, []), *sizes]
            bound = self._bounds.get(name, OutlierBound())
            self._limits[name] = bound.limit(DEVIATIONS, now), bound.limit(DOUBTFUL, now)

    def decide(
        self, round: int, candidate: Candidate[Seen], moving: Container[str] | None = None
    ) -> Seen:
        """What was seen of a reply that is plain, or was compared and has no size that is too much.

        Parameters
        ----------
        moving: the sizes of what moves the model, which alone make a node doubtful; without
            it, all do.

        Raises
        ------
        Rejected: with the field and the reason.
        """
        node, sizes = candidate.node, candidate.sizes
        if not self.plain(candidate):
            for name, size in sizes.items():
                limit, doubtful = self._limits[name]
                if size > limit:
                    self.reject(round, node)
                    reason = f"size {size:.3g}; by what is usual here, {limit:.3g} is too much"
                    raise Rejected(name, reason, excessive=True)
                if size > doubtful and (moving is None or name in moving):
                    self._doubtful_now.add(node)
        self._admit(node, sizes)
        return candidate.seen

    def brief(self) -> dict[str, Any]:
        """What is usual, for another gate that looks at replies of the same round."""
        state = self.state()
        return {name: state[name] for name in ("bounds", "admitted")}

    def take_brief(self, notes: Mapping[str, Any]) -> None:
        """Look at the replies of one round by what is usual elsewhere."""
        self.load_state({"nodes": {}, "doubtful": [], **notes})
        self.drop_round()

    @property
    def doubtful(self) -> frozenset[int]:
        """Nodes whose replies of this round were unusual, but not too much to be let pass."""
        return frozenset(self._doubtful_now)

    def admit_elsewhere(self, node: int, sizes: Sizes, doubtful: bool) -> None:
        """A reply that another gate has admitted, which had this one's brief."""
        self._admit(node, sizes)
        self._doubtful_now |= {node} if doubtful else set()

    def _admit(self, node: int, sizes: Sizes) -> None:
        for name, size in sizes.items():
            self._sizes.setdefault(name, []).append(size)
        self._admitted += bool(sizes)
        if node in self._nodes:
            self._nodes[node].row = 0

    def reject(self, round: int, node: int) -> None:
        """Count an offence of a node."""
        record = self._nodes.setdefault(node, _Record())
        record.row += 1
        record.rejected += 1
        if record.row >= OFFENCES:
            record.until, record.row = round + 1 + PAUSE, OFFENCES - 1

    def forgive(self, round: int, nodes: Iterable[int]) -> None:
        """Take back the offences of nodes whose replies of this round were not at fault."""
        for record in (self._nodes[node] for node in nodes if node in self._nodes):
            if record.until > round:  # it was set aside for it
                record.until = round
            else:
                record.row = max(0, record.row - 1)

    def trust(self) -> None:
        """What was admitted before this round has led to a good model: no node is doubtful."""
        self._doubtful.clear()

    def blame(self, round: int) -> list[int]:
        """Set aside the nodes that were unusual since the last good model; which they are."""
        found = sorted(self._doubtful)
        for node in found:
            record = self._nodes.setdefault(node, _Record())
            record.until, record.row = round + 1 + PAUSE, OFFENCES - 1
        self._doubtful.clear()
        return found

    def end_round(self) -> None:
        """Let the sizes of this round bound those of the next."""
        for name, sizes in self._sizes.items():
            self._bounds.setdefault(name, OutlierBound()).extend(sizes)
        self._doubtful |= self._doubtful_now
        self.drop_round()

    def drop_round(self) -> None:
        """What came in this round is about a model that is lost: it bounds nothing."""
        for kept in (self._sizes, self._doubtful_now, self._limits, self._plain):
            kept.clear()

    def forget(self) -> None:
        """What was usual is no longer: learn anew."""
        self._bounds.clear()
        self._plain.clear()
        self._admitted = 0

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        nodes = {str(node): astuple(record) for node, record in self._nodes.items()}
        bounds = {name: bound.state() for name, bound in self._bounds.items()}
        return {
            "nodes": nodes,
            "bounds": bounds,
            "admitted": self._admitted,
            "doubtful": sorted(self._doubtful),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._nodes = {int(node): _Record(*record) for node, record in state["nodes"].items()}
        self._bounds = {name: OutlierBound(seen) for name, seen in state["bounds"].items()}
        self._admitted, self._doubtful = state["admitted"], set(state["doubtful"])


def check_fields(up: Any, round: int, examples: int, expected: Expected) -> None:
    """Check the fields of a reply that every method has the same way.

    Parameters
    ----------
    round: that was asked for.
    examples: number of images that the client enrolled with.
    expected: what its fields of tensors may hold.

    Raises
    ------
    Rejected: with the field and the reason.
    """
    for name, pattern in expected.items():
        tensors = getattr(up, name)  # None where an optional field is left out
        if tensors is not None and (problem := pattern.problem(tensors.specs)):
            raise Rejected(name, problem)
    if up.round != round:
        raise Rejected("round", f"is {up.round!r}, expected {round!r}")
    if not 0 < up.examples <= examples:
        advice = MORE if up.examples > examples else ""
        raise Rejected("examples", f"{up.examples}, enrolled with {examples}{advice}")
