"""The running sum: the same bits as plain addition, whatever was refused on the way."""

from __future__ import annotations

import numpy as np
import pytest

from server_app.aggregation import running_sum
from server_app.aggregation.running_sum import GROUP, RunningSum


@pytest.fixture(params=[5, 1000, 70_000])
def vectors(request: pytest.FixtureRequest) -> list[np.ndarray]:
    dice = np.random.default_rng(0)
    scale = 10.0 ** dice.integers(-4, 4, size=(3 * GROUP, 1))
    return list((scale * dice.normal(size=(3 * GROUP, request.param))).astype(np.float32))


def plain(vectors: list[np.ndarray], factors: list[float] | None = None) -> np.ndarray:
    total = np.zeros_like(vectors[0])
    for vector, factor in zip(vectors, factors or [1.0] * len(vectors), strict=True):
        total += np.float32(factor) * vector
    return total


def test_it_is_the_plain_sum(vectors: list[np.ndarray]):
    running, factors = RunningSum(len(vectors[0])), [float(i % 5) for i in range(len(vectors))]
    for vector, factor in zip(vectors, factors, strict=True):
        running.offer(vector, factor)
        norm = running.keep(vector, factor)
        assert norm == pytest.approx(np.linalg.norm(vector.astype(np.float64)), rel=1e-5)
    np.testing.assert_array_equal(running.total, plain(vectors, factors))


@pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38, 1.0])
def test_what_is_refused_leaves_no_trace(vectors: list[np.ndarray], poison: float):
    running, kept = RunningSum(len(vectors[0])), []
    for number, vector in enumerate(vectors):
        if number % 7 in (2, 3):
            bad = vector.copy()
            bad[-1] = poison
            running.offer(bad)
        else:
            running.offer(vector)
            running.keep(vector)
            kept.append(vector)
    np.testing.assert_array_equal(running.total, plain(kept))


def test_bad_vectors_have_no_finite_norm():
    running = RunningSum(4)
    for value in (np.nan, np.inf, -np.inf, 3e38):
        assert not np.isfinite(running.offer(np.array([1, value, 2, 3], np.float32)))


def test_a_refused_last_vector_is_not_in_the_total(vectors: list[np.ndarray]):
    running = RunningSum(len(vectors[0]))
    running.keep(vectors[0])
    running.offer(vectors[1])
    np.testing.assert_array_equal(running.total, vectors[0])


def test_what_is_kept_need_not_be_offered(vectors: list[np.ndarray]):
    running = RunningSum(len(vectors[0]))
    running.offer(vectors[2])
    for vector in vectors[:2]:
        running.keep(vector)
    np.testing.assert_array_equal(running.total, plain(vectors[:2]))
    running.clear()
    assert not running.total.any()


def test_few_large_vectors_are_held(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running_sum, "HELD", 3 * 4000)
    running = RunningSum(1000)
    for _ in range(10):
        running.keep(np.ones(1000, np.float32))
        assert len(running._since) <= 3
    np.testing.assert_array_equal(running.total, np.full(1000, 10, np.float32))
