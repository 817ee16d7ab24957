"""What named tensors a reply may hold: it bounds the message and decides how it is added up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.tensors import Spec

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
        return "" if got == self.specs else _difference(got, self.specs)


@dataclass(frozen=True)
class Vector(Exactly):
    """These float32 tensors, in this order, added up as one vector: the fast path of models."""


@dataclass(frozen=True)
class AnyOf(Exactly):
    """Some of these tensors, at least one, in this order: what not every client holds."""

    def problem(self, got: Specs) -> str:
        """What is wrong with the names, shapes or dtypes; empty if nothing is."""
        left = iter(self.specs)
        if not got:
            return f"is empty, expected some of {len(self.specs)} tensors"
        return "" if all(spec in left for spec in got) else _difference(got, self.specs)


@dataclass(frozen=True)
class NoLarger(Exactly):
    """These tensors, in this order, none of whose axes is longer: factors of varying rank."""

    def problem(self, got: Specs) -> str:
        """What is wrong with the names, shapes or dtypes; empty if nothing is."""
        fits = len(got) == len(self.specs) and all(
            (name, dtype, len(shape)) == (wanted, kind, len(most))
            and all(0 < n <= limit for n, limit in zip(shape, most, strict=True))
            for (name, shape, dtype), (wanted, most, kind) in zip(got, self.specs, strict=True)
        )
        return "" if fits else _difference(got, self.specs)


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

    def problem(self, got: Specs) -> str:
        """What is wrong with the names, shapes or dtypes; empty if nothing is."""
        return "" if got == self.largest else _difference(got, self.largest)


Expected = Mapping[str, Exactly]
"""Field of an ``Up`` -> the tensors that it may hold."""


def size(specs: Specs) -> int:
    """Bytes on the wire, at most, names and shapes included."""
    widths = {dtype: np.dtype(dtype).itemsize for _, _, dtype in specs}
    return sum(math.prod(shape) * widths[dtype] + len(name) + 64 for name, shape, dtype in specs)


def _difference(got: Specs, wanted: Specs) -> str:
    for one, other in zip(got, wanted, strict=False):
        if one != other:
            return f"has {one[0][:80]} {one[2]} {one[1]}, expected {other[0]} {other[2]} {other[1]}"
    return f"has {len(got)} tensors, expected {len(wanted)}"
