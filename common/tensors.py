"""Named tensors in one flat vector a dtype: how parameters travel, rest and are added up.

A model of 60 layers is 60 small arrays for PyTorch, but one vector for a federated method,
and one object instead of 60 for Flower, which pays several round trips for each.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Spec = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of one tensor."""


@dataclass(frozen=True, eq=False)
class Tensors:
    """Named tensors, packed in order into one contiguous 1-D array for each dtype.

    Attributes
    ----------
    specs: name, shape and dtype of each tensor, in packing order.
    vectors: dtype name -> 1-D array that holds all tensors of that dtype, one after the other.
    """

    specs: tuple[Spec, ...]
    vectors: dict[str, NDArray[np.generic]]

    @classmethod
    def pack(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Tensors:
        """Copy named arrays into flat vectors."""
        specs = tuple((name, array.shape, array.dtype.name) for name, array in arrays.items())
        parts: dict[str, list[NDArray[np.generic]]] = {}
        for array in arrays.values():
            parts.setdefault(array.dtype.name, []).append(array.reshape(-1))
        return cls(specs, {dtype: np.concatenate(flat) for dtype, flat in parts.items()})

    def unpack(self) -> dict[str, NDArray[np.generic]]:
        """Views into the vectors by name; nothing is copied."""
        position = dict.fromkeys(self.vectors, 0)
        arrays = {}
        for name, shape, dtype in self.specs:
            start, size = position[dtype], math.prod(shape)
            arrays[name] = self.vectors[dtype][start : start + size].reshape(shape)
            position[dtype] = start + size
        return arrays

    @property
    def vector(self) -> Vector:
        """The one float32 vector of a model's parameters."""
        if self.vectors.keys() - {"float32"}:
            raise TypeError(f"not all tensors are float32: {sorted(self.vectors)}")
        return self.vectors.get("float32", np.zeros(0, np.float32))  # type: ignore[return-value]

    def with_vector(self, vector: Vector) -> Tensors:
        """The same names and shapes over another float32 vector of the same length."""
        if vector.shape != self.vector.shape or vector.dtype != np.float32:
            raise ValueError(
                f"need a float32 vector of shape {self.vector.shape}, "
                f"not {vector.dtype} {vector.shape}"
            )
        return Tensors(self.specs, {"float32": vector} if vector.size else {})

    def only(self, names: Collection[str]) -> Tensors:
        """Those of these names, in this order (a copy)."""
        return Tensors.pack({name: a for name, a in self.unpack().items() if name in names})

    def without(self, names: Collection[str]) -> Tensors:
        """All but those of these names, in this order (a copy)."""
        return Tensors.pack({name: a for name, a in self.unpack().items() if name not in names})

    def merged(self, others: Tensors) -> Tensors:
        """The same names in the same order, with the values of ``others`` where it has some."""
        return Tensors.pack(self.unpack() | others.only(self.unpack()).unpack())

    def __len__(self) -> int:
        return sum(vector.size for vector in self.vectors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(vector.nbytes for vector in self.vectors.values())
