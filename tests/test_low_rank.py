"""Low rank: exact where nothing is cut, never more numbers than there were, never nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.low_rank import cut, expand, fits
from common.tensors import Tensors

RANDOM = np.random.default_rng(0)


def named(**arrays: np.ndarray) -> Tensors:
    return Tensors.pack({name: array.astype(np.float32) for name, array in arrays.items()})


def test_at_full_energy_it_is_exact():
    whole = named(
        w=RANDOM.normal(size=(10, 512)), k=RANDOM.normal(size=(64, 32, 5, 5)), b=np.ones(3)
    )
    sent = cut(whole, 1.0)
    assert sent.specs == whole.specs, "a matrix of full rank travels whole, not as nothing"
    np.testing.assert_array_equal(expand(sent, whole.specs).vector, whole.vector)


def test_a_matrix_of_rank_two_is_exact_in_two_factors():
    whole = named(w=RANDOM.normal(size=(40, 2)) @ RANDOM.normal(size=(2, 60)))
    sent = cut(whole, 1 - 1e-12)
    assert sent.specs == (("w.left", (40, 2), "float32"), ("w.right", (2, 60), "float32"))
    np.testing.assert_allclose(expand(sent, whole.specs).vector, whole.vector, atol=1e-5)


def test_the_rank_is_the_least_that_holds_the_energy():
    # Singular values 3, 2, 1: squares 9, 4, 1 of 14.
    whole = named(w=np.pad(np.diag([3.0, 2.0, 1.0]), ((0, 7), (0, 7))))
    for energy, rank in ((9 / 14 - 1e-6, 1), (9 / 14 + 1e-6, 2), (13 / 14 + 1e-6, 3)):
        assert cut(whole, energy).specs[0] == ("w.left", (10, rank), "float32")


def test_convolutions_are_one_matrix_and_never_grow():
    kernels = named(k=RANDOM.normal(size=(64, 32, 5, 5)))
    for energy in (0.5, 0.9, 0.95, 0.98):
        assert len(cut(kernels, energy)) <= len(kernels)
    smooth = named(k=RANDOM.normal(size=(64, 1)) @ RANDOM.normal(size=(1, 32 * 25)))
    assert len(cut(smooth, 0.95)) == 64 + 800


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_what_cannot_be_cut_travels(value: float):
    whole = named(w=np.full((8, 9), value))
    found = expand(cut(whole, 0.9), whole.specs)
    np.testing.assert_array_equal(found.vector, whole.vector)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=4),
    st.floats(0.01, 1.0), st.integers(0, 9),
)  # fmt: skip
def test_the_error_is_at_most_the_energy_left_out(
    shapes: list[tuple[int, int, int]], energy: float, seed: int
):
    dice = np.random.default_rng(seed)
    whole = named(**{str(n): dice.normal(size=shape) for n, shape in enumerate(shapes)})
    sent = cut(whole, energy)
    assert fits(sent.specs, whole.specs)
    assert len(sent) <= len(whole)
    for name, array in expand(sent, whole.specs).unpack().items():
        before = whole.unpack()[name]
        left = np.square(array - before, dtype=np.float64).sum()
        assert left <= (1 - energy) * np.square(before, dtype=np.float64).sum() + 1e-6


SPECS = (("w", (8, 9), "float32"), ("b", (3,), "float32"))
W, B = SPECS
F = "float32"


@pytest.mark.parametrize(
    "got",
    [
        (),
        (W,),
        (B, W),
        (W, B, B),
        (("w.left", (8, 2), F), B),
        (("w.left", (8, 2), F), ("w.right", (3, 9), F), B),
        (("w.left", (9, 2), F), ("w.right", (2, 8), F), B),
        (("w.left", (8, 0), F), ("w.right", (0, 9), F), B),
        (("w.left", (8, 5), F), ("w.right", (5, 9), F), B),  # more numbers than the whole
        (("w.left", (8, 2), "float64"), ("w.right", (2, 9), "float64"), B),
        (W, ("b.left", (3, 1), F), ("b.right", (1, 1), F)),
    ],
)
def test_what_does_not_fit(got: tuple[tuple[str, tuple[int, ...], str], ...]):
    assert fits((("w.left", (8, 4), F), ("w.right", (4, 9), F), B), SPECS)
    assert not fits(got, SPECS)
