"""What named tensors a reply may hold: it bounds the message and decides how it is added up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import low_rank
from common.tensors import Spec, Tensors

Specs = tuple[Spec, ...]
Where = Mapping[str, tuple[NDArray[np.int64], ...]]
"""Name of a tensor -> the indices of a part of it, axis by axis."""


@dataclass(frozen=True)
class Exactly:
    """These tensors, in this order."""

    specs: Specs

    @property
    def largest(self) -> Specs:
        """The most that may come."""
        return self.specs

    def problem(self, got: Specs) -> str:
        """What is wrong with the names, shapes or dtypes; empty if nothing is."""
        for one, wanted in zip(got, self.largest, strict=False):
            if not self.fits(one, wanted):
                return f"has {_text(one)}, expected {_text(wanted)}"
        if len(got) != len(self.largest):
            return f"has {len(got)} tensors, expected {len(self.largest)}"
        return ""

    def fits(self, one: Spec, wanted: Spec) -> bool:
        """Whether a tensor may come in the place of one of the largest."""
        return one == wanted

    def places(self, got: Specs) -> Where | None:
        """The entries of ``specs`` that these tensors are; None if they are whole."""
        return None

    def values(self, tensors: Tensors) -> Tensors:
        """What came, as it is measured and added up."""
        return tensors


@dataclass(frozen=True)
class Vector(Exactly):
    """These float32 tensors, in this order, added up as one vector: the fast path of models."""


@dataclass(frozen=True)
class AnyOf(Exactly):
    """Some of these tensors, at least one, in this order: what not every client holds."""

    def problem(self, got: Specs) -> str:
        """What is wrong with the names, shapes or dtypes; empty if nothing is."""
        left, known = iter(self.specs), {spec[0]: spec for spec in self.specs}
        if not got:
            return f"is empty, expected some of {len(self.specs)} tensors"
        for one in got:
            if (wanted := known.get(one[0])) is None:
                return f"has {_text(one)}, expected some of {len(self.specs)} others"
            if one != wanted:
                return f"has {_text(one)}, expected {_text(wanted)}"
            if one not in left:
                return f"has {_text(one)} twice or out of order"
        return ""


@dataclass(frozen=True)
class NoLarger(Exactly):
    """These tensors, in this order, none of whose axes is longer: factors of varying rank.

    The entries of a smaller one are the first along each axis.
    """

    def fits(self, one: Spec, wanted: Spec) -> bool:
        """Whether a tensor may come in the place of one of the largest."""
        (name, shape, dtype), (known, most, kind) = one, wanted
        return (name, dtype, len(shape)) == (known, kind, len(most)) and all(
            0 < n <= limit for n, limit in zip(shape, most, strict=True)
        )

    def places(self, got: Specs) -> Where | None:
        """The entries of ``specs`` that these tensors are; None if they are whole."""
        return {name: tuple(map(np.arange, shape)) for name, shape, _ in got}


@dataclass(frozen=True)
class LowRank(Exactly):
    """These float32 tensors, in this order, each whole or as two factors with fewer numbers."""

    def problem(self, got: Specs) -> str:
        """What is wrong with the names, shapes or dtypes; empty if nothing is."""
        if low_rank.fits(got, self.specs):
            return ""
        return f"is not these {len(self.specs)} tensors, whole or as two factors each"

    def values(self, tensors: Tensors) -> Tensors:
        """The products."""
        return low_rank.expand(tensors, self.specs)


@dataclass(frozen=True)
class Part(Exactly):
    """A part of each of these tensors: a sub-network.

    Attributes
    ----------
    specs: of the whole tensors.
    where: which entries the part has.
    """

    where: Where

    @property
    def largest(self) -> Specs:
        """The specs of the part."""
        return tuple(
            (name, tuple(len(axis) for axis in self.where[name]), dtype)
            for name, _, dtype in self.specs
            if name in self.where
        )

    def places(self, got: Specs) -> Where | None:
        """The entries of ``specs`` that these tensors are; None if they are whole."""
        return self.where


Expected = Mapping[str, Exactly]
"""Field of an ``Up`` -> the tensors that it may hold."""


def size(specs: Specs) -> int:
    """Bytes on the wire, at most, names and shapes included."""
    widths = {dtype: np.dtype(dtype).itemsize for _, _, dtype in specs}
    return sum(math.prod(shape) * widths[dtype] + len(name) + 64 for name, shape, dtype in specs)


def _text(spec: Spec) -> str:
    return f"{spec[0][:80]} {spec[2]} {spec[1]}"
