"""Named tensors cut to low rank, as two factors each where these are fewer numbers.

A tensor of shape (m, ...) is a matrix of m rows; a convolution's kernels are one matrix, not one
for each pair of channels. It keeps its largest singular values, as few as hold the wanted share of
the sum of their squares, and all of them where that takes all. It travels whole where two factors
would be no fewer numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.tensors import Spec, Tensors

LEFT, RIGHT = ".left", ".right"


def cut(tensors: Tensors, energy: float) -> Tensors:
    """Factors "name.left" (m, r) and "name.right" (r, n), or the tensor as it is.

    Parameters
    ----------
    energy: share of the squared singular values that is kept, in (0, 1].
    """
    parts = {}
    for name, array in tensors.unpack().items():
        if array.ndim < 2 or not np.isfinite(array).all():
            parts[name] = array
            continue
        matrix = array.reshape(len(array), -1)
        left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        held = np.cumsum(values**2)
        rank = min(int(np.searchsorted(held, energy * held[-1])) + 1, len(values))
        if rank * sum(matrix.shape) < matrix.size:
            parts[name + LEFT] = (left[:, :rank] * values[:rank]).astype(np.float32)
            parts[name + RIGHT] = right[:rank].astype(np.float32)
        else:
            parts[name] = array
    return Tensors.pack(parts)


def expand(parts: Tensors, specs: tuple[Spec, ...]) -> Tensors:
    """Tensors of these specs from what ``cut`` gave."""
    found, arrays = parts.unpack(), dict[str, NDArray[np.generic]]()
    for name, shape, _ in specs:
        if name in found:
            arrays[name] = found[name]
        else:
            left, right = (np.asarray(found[name + end], np.float32) for end in (LEFT, RIGHT))
            with np.errstate(all="ignore"):  # whoever looks at the values sees what came of it
                arrays[name] = (left @ right).reshape(shape)
    return Tensors.pack(arrays)


def fits(got: tuple[Spec, ...], specs: tuple[Spec, ...]) -> bool:
    """Whether these are the specs of what ``cut`` may give for tensors of ``specs``."""
    left = iter(got)
    for name, shape, dtype in specs:
        one = next(left, None)
        if one == (name, shape, dtype):
            continue
        two, rows = next(left, None), shape[0] if shape else 0
        columns = math.prod(shape[1:])
        if one is None or two is None or len(shape) < 2 or len(one[1]) != 2:
            return False
        rank = one[1][1]
        if one != (name + LEFT, (rows, rank), dtype) or two != (
            name + RIGHT, (rank, columns), dtype
        ):  # fmt: skip
            return False
        if not 0 < rank * (rows + columns) < rows * columns:
            return False
    return next(left, None) is None


def moved(old: Tensors, parts: Tensors) -> Tensors:
    """``old`` plus a change that ``cut`` gave: the same on the server and on devices."""
    return old.with_vector(old.vector + expand(parts, old.specs).vector)
