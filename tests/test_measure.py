"""Lengths by secret signs: linear, right in the mean, and not to be evaded without the secret."""

from __future__ import annotations

import numpy as np
import pytest

from server_app.admm.measure import BLOCK, Measure

SIZES = (1, 7, 5000, BLOCK, BLOCK + 1, 5 * BLOCK + 77)


def shapes(size: int) -> dict[str, np.ndarray]:
    """Energy in one place, in two, in all alike, or the same in each block."""
    one, two = np.zeros((2, size), np.float32)
    one[size // 2] = 1
    two[[0, -1]] = 1
    return {
        "one entry": one,
        "two entries": two,
        "all the same": np.ones(size, np.float32),
        "repeated": np.resize(np.random.default_rng(1).normal(size=BLOCK), size).astype(np.float32),
        "plus and minus": np.resize([1, -1], size).astype(np.float32),
        "any": np.random.default_rng(2).normal(size=size).astype(np.float32),
    }


@pytest.mark.parametrize("size", SIZES)
def test_sums_are_linear(size: int):
    measure = Measure(b"secret", size)
    x, y = np.random.default_rng(size).normal(size=(2, size)).astype(np.float32)
    scale = float(np.linalg.norm(x) + np.linalg.norm(y))
    np.testing.assert_allclose(measure(x + y), measure(x) + measure(y), atol=1e-5 * scale)


@pytest.mark.parametrize("size", SIZES)
def test_lengths_are_right_in_the_mean_of_squares_whatever_the_vector(size: int):
    for name, vector in shapes(size).items():
        squares = [np.square(Measure(b"%d" % n, size)(vector)).sum() for n in range(300)]
        expected = np.square(vector, dtype=np.float64).sum()
        assert np.mean(squares) == pytest.approx(expected, rel=0.15), name
        # Two equal entries cancel in all eight sums with a chance of 1 in 256.
        assert np.mean(np.array(squares) < 0.01 * expected) <= 0.015, name


def test_signs_are_those_of_the_secret_on_every_machine():
    """A checkpoint's sums mean the same wherever the run goes on."""
    vector = np.arange(1, 41, dtype=np.float32)
    sums = Measure(b"secret", 40)(vector) * np.sqrt(8)
    np.testing.assert_allclose(sums, EXPECTED, atol=1e-9)
    assert not np.allclose(Measure(b"another", 40)(vector), Measure(b"secret", 40)(vector))


EXPECTED = [-80, 24, -106, -62, 240, 184, -30, -180]


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_cannot_be_measured_is_not_finite(value: float):
    vector = np.full(3 * BLOCK, value, np.float32)
    assert not np.isfinite(Measure(b"", len(vector))(vector)).all()
