"""The replies of one round: what of them is added up as they come, and the rest, kept whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import RunError
from common.tensors import Tensors
from server_app.aggregation.exact_sum import ExactSum
from server_app.aggregation.expected import Exactly, Expected, Vector
from server_app.aggregation.losses import Losses
from server_app.aggregation.means import LARGEST, WHOLE, Means

EMPTY = Tensors((), {})

BLOCK = 1 << 16
"""Elements of a vector that are squared at a time."""


class Weighing(Protocol):
    """What of a method says how a reply counts; see ``server_app/method.py``."""

    collects: frozenset[str]

    def expects(self, client: int) -> Expected:
        """What each field of tensors may hold."""

    def weight(self, client: int, up: Any) -> float:
        """In means of numbers."""

    def factor(self, client: int, up: Any) -> float:
        """Of tensors in sums."""

    def check(self, client: int, up: Any, sizes: dict[str, float]) -> dict[str, float]:
        """Sizes to compare with what is usual."""


@dataclass(frozen=True)
class Offer:
    """A reply that fits its contract and has been looked at.

    Attributes
    ----------
    sizes: of its fields of tensors: the Euclidean norm of a whole vector, the root mean square of
        what may come in parts. Not finite if the values are not.
    evaluated: the same as the method amends them, to compare with what is usual.
    """

    client: int
    up: Any
    weight: float
    factor: float
    expected: Expected
    sizes: dict[str, float]
    compared: dict[str, float]


class Replies:
    """What came of a round, as a method's ``step`` sees it.

    Tensors are added up when a reply is accepted and are gone then, but for those fields that the
    method asks to keep one by one; memory does not grow with the number of clients otherwise.

    Sums and means are the same bits in whatever order replies are accepted, and after ``sort`` all
    that is kept by client is in the order of clients.

    Weights and what is expected are asked of the method, once for each reply, so that no method can
    add up with one weight and divide by another.
    """

    def __init__(self, method: Weighing) -> None:
        self._method = method
        self._sums: dict[str, ExactSum] = {}
        self._patterns: dict[str, Exactly] = {}
        self._means: dict[str, Means] = {}
        self._whole: dict[str, bool] = {}
        self._kept: dict[str, dict[int, Tensors]] = {}
        self._weights: dict[int, float] = {}
        self._factors: dict[str, ExactSum] = {}
        self._losses = Losses()
        self.norms: dict[str, dict[int, float]] = {}
        self.ups: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.ups)

    def offer(self, client: int, up: Any) -> Offer:
        """Look at a reply that fits its contract; it counts only if it is accepted.

        Raises
        ------
        Rejected: the method cannot use it.
        RunError: the method expects a field as a whole vector of some and in parts of others.
        """
        method, sizes = self._method, dict[str, float]()
        factor, expected = method.factor(client, up), present(method.expects(client), up)
        for name, pattern in expected.items():
            tensors = pattern.values(getattr(up, name))
            self._expect(client, name, pattern)
            whole = isinstance(pattern, Vector)
            sizes[name] = _norm(tensors.vector) if whole else _rms(tensors)
        weight, compared = method.weight(client, up), method.check(client, up, dict(sizes))
        return Offer(client, up, weight, factor, expected, sizes, compared)

    def _expect(self, client: int, name: str, pattern: Exactly) -> None:
        """See to it that a field can be added up."""
        whole = isinstance(pattern, Vector)
        if self._whole.setdefault(name, whole) != whole:
            raise RunError(
                f"{name} of client {client} cannot be added up with that of others: some are "
                "expected as a Vector; where clients differ, expect Exactly, AnyOf or Part"
            )
        if whole and name not in self._sums:
            self._sums[name] = ExactSum((sum(math.prod(shape) for _, shape, _ in pattern.specs),))
            self._patterns[name] = pattern

    def accept(self, offer: Offer) -> None:
        """Let a reply count."""
        client, up = offer.client, offer.up
        for name, pattern in offer.expected.items():
            tensors = pattern.values(getattr(up, name))
            if name in self._method.collects:
                self._kept.setdefault(name, {})[client] = tensors
            elif isinstance(pattern, Vector):
                self._sums[name].add(tensors.vector, offer.factor)
            else:
                where = pattern.places(tensors.specs)
                whole = None if where is None else {spec[0]: spec[1] for spec in pattern.specs}
                self._means.setdefault(name, Means()).add(tensors, offer.factor, where, whole)
        self._note(offer)

    def parts(self) -> dict[str, NDArray[Any]]:
        """All that was added up so far, by field and grid; ``merge`` takes it in elsewhere."""
        found: dict[str, NDArray[Any]] = {}
        for kind, sums in (("vector", self._sums), ("factor", self._factors)):
            for name, total in sums.items():
                found |= {f"{kind}/{name}/{k}": grid for k, grid in enumerate(total.grids)}
        for name, means in self._means.items():
            found |= {f"mean/{name}/{key}": array for key, array in means.parts().items()}
        return found

    def merge(self, parts: Mapping[str, NDArray[Any]], offers: Sequence[Offer]) -> None:
        """Let replies count that were added up elsewhere.

        Sums are exact, so that the outcome is, to the bit, as if each had been accepted here.

        Parameters
        ----------
        parts: what ``Replies.parts`` gave there.
        offers: the replies that are in it, with no tensors in their ``up``.

        Raises
        ------
        ValueError: it is not the sum of these replies, as far as can be told; nothing has changed.
        """
        for offer in offers:
            for name, pattern in offer.expected.items():
                self._expect(offer.client, name, pattern)
        grouped = _grouped(parts, offers)
        factors: dict[str, ExactSum] = {}
        for offer in offers:
            for name in offer.expected:
                factors.setdefault(name, ExactSum(())).add(offer.factor)
        for name, own in factors.items():
            told = ExactSum(())
            told.merge(grouped.get(("factor", name), {}).values())
            if told.total != own.total:
                raise ValueError(f"{name} was added up with other weights than these replies have")
        for (kind, name), found in grouped.items():
            if kind == "vector":
                self._sums[name].merge(found.values())
            elif kind == "mean":
                self._means.setdefault(name, Means()).merge(found)
        for offer in offers:
            self._note(offer)

    def _note(self, offer: Offer) -> None:
        """Keep what is known of an accepted reply beside its tensors."""
        client, up = offer.client, offer.up
        for name in offer.expected:
            self.norms.setdefault(name, {})[client] = offer.sizes[name]
            self._factors.setdefault(name, ExactSum(())).add(offer.factor)
        self._weights[client] = offer.weight
        self._losses.add(up.loss, offer.weight)
        self.ups[client] = replace(up, **dict.fromkeys(offer.expected, EMPTY))

    @property
    def loss(self) -> float:
        """Mean of the clients' losses by weight, in which none has more say than its share; NaN
        without any."""
        return self._losses.mean if any(self._weights.values()) else math.nan

    def weight(self, client: int) -> float:
        """What the reply of a client counts for."""
        return self._weights[client]

    def mean(
        self, number: str, of: Callable[[Any], bool] = lambda up: True, most: float = math.inf
    ) -> float:
        """Weighted mean of a numeric field, over the replies for which ``of`` holds; else 0.

        Parameters
        ----------
        most: what larger numbers are taken as.
        """
        chosen = [(self._weights[client], up) for client, up in self.ups.items() if of(up)]
        total = math.fsum(weight for weight, _ in chosen)
        values = (weight * min(getattr(up, number), most) for weight, up in chosen)
        return math.fsum(values) / (total or 1.0)

    def total(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """sum_i factor_i x_i of a field of whole vectors, shape (d,)."""
        return self._sums[name].total.astype(np.float32)

    def average(self, name: str) -> Tensors:
        """sum_i factor_i x_i / sum_i factor_i of a field of whole vectors; zero if none counts."""
        factor = float(self._factors[name].total) if name in self._factors else 0.0
        vector = (self._sums[name].total * (1.0 / factor if factor else 0.0)).astype(np.float32)
        return Tensors(self._patterns[name].specs, {"float32": vector} if vector.size else {})

    def averaged(self, name: str, old: Tensors) -> Tensors:
        """``old`` with each entry replaced by the mean over those that have it."""
        return self._means[name].values(old) if name in self._means else old

    def moved(self, name: str, old: Tensors) -> Tensors:
        """``old`` plus, for each entry, the mean change over those that have it."""
        if name in self._sums:
            return old.with_vector(old.vector + self.average(name).vector)
        return self._means[name].moved(old) if name in self._means else old

    def covered(self, name: str) -> int:
        """Number of entries of a field that somebody had."""
        return self._means[name].covered if name in self._means else 0

    def sort(self) -> None:
        """Put what is kept by client in the order of clients."""
        self.ups = dict(sorted(self.ups.items()))
        self.norms = {name: dict(sorted(norms.items())) for name, norms in self.norms.items()}
        self._kept = {name: dict(sorted(kept.items())) for name, kept in self._kept.items()}

    def each(self, name: str) -> dict[int, Tensors]:
        """A field of each client, where the method has asked to collect it."""
        return self._kept.get(name, {})


def present(expected: Expected, up: Any) -> Expected:
    """Without optional fields that a client has left out."""
    return {name: p for name, p in expected.items() if getattr(up, name) is not None}


def _norm(vector: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Euclidean norm; infinite or NaN if a value is not finite, or too long for float32 to square.

    Block by block, for BLAS shares a long one out among threads, whose number then counts.
    """
    with np.errstate(all="ignore"):
        blocks = (vector[start : start + BLOCK] for start in range(0, len(vector), BLOCK))
        return math.sqrt(sum(float(np.dot(block, block)) for block in blocks))


def _rms(tensors: Tensors) -> float:
    vectors = [v for v in tensors.vectors.values() if v.dtype.kind == "f"]
    square = sum(float(np.square(v, dtype=np.float64).sum()) for v in vectors)
    return math.sqrt(square / max(1, sum(v.size for v in vectors)))


def _grouped(
    parts: Mapping[str, NDArray[Any]], offers: Sequence[Offer]
) -> dict[tuple[str, str], dict[str, NDArray[Any]]]:
    """(kind, field) -> parts in order, all of shapes that these replies can have."""
    specs = {
        name: {tensor: (shape, dtype) for tensor, shape, dtype in pattern.specs}
        for offer in offers
        for name, pattern in offer.expected.items()
    }
    vectors = {name for o in offers for name, p in o.expected.items() if isinstance(p, Vector)}
    found: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for key, array in parts.items():
        kind, _, rest = key.partition("/")
        name, _, part = rest.partition("/")
        known = specs.get(name)
        shape: tuple[int, ...] = ()
        dtype = "float64"
        if kind == "vector" and name in vectors:
            assert known is not None
            shape = (sum(math.prod(each) for each, _ in known.values()),)
        elif kind == "mean" and known is not None and name not in vectors:
            of, _, tensor = part.partition("/")
            if tensor not in known:
                raise ValueError(f"{key[:80]} is no part of these replies")
            shape = () if of.startswith(WHOLE) else known[tensor][0]
            dtype = known[tensor][1] if of == LARGEST else dtype
        elif kind != "factor" or known is None:
            raise ValueError(f"{key[:80]} is no part of these replies")
        if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
            raise ValueError(
                f"{key[:80]} is {array.dtype} {array.shape} or not finite; expected are finite "
                f"{dtype} {shape}"
            )
        found.setdefault((kind, name), {})[part] = array
    for (kind, name), numbered in found.items():
        if kind != "mean" and list(numbered) != [str(k) for k in range(len(numbered))]:
            raise ValueError(f"{kind}/{name} has parts {list(numbered)[:8]}")
    return found
