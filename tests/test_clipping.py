"""A mean in which no vector can be far from the others."""

from __future__ import annotations

import numpy as np
import pytest

from server_app.aggregation.clipping import clipped_mean


def test_vectors_that_are_alike_have_their_own_mean():
    same = np.full((5, 3), 2.0, np.float32)
    np.testing.assert_allclose(clipped_mean(same, np.ones(5)), [2.0] * 3)


def test_of_two_it_is_the_weighted_mean():
    two = np.array([[0.0], [3.0]], np.float32)
    np.testing.assert_allclose(clipped_mean(two, np.array([1.0, 2.0])), [2.0])


def test_by_hand():
    """0, 0, 0, 9: the median is 0, and so is the median distance."""
    four = np.array([[0.0], [0.0], [0.0], [9.0]], np.float32)
    np.testing.assert_allclose(clipped_mean(four, np.ones(4)), [0.0], atol=1e-9)
    # 0, 1, 2, 100: median 1.5; distances 1.5, 0.5, 0.5, 98.5, so tau = 1; -1, -0.5, 0.5 and 1 are
    # counted, whose mean is 0. So it stays.
    four = np.array([[0.0], [1.0], [2.0], [100.0]], np.float32)
    np.testing.assert_allclose(clipped_mean(four, np.ones(4)), [1.5])


@pytest.mark.parametrize("size", [1e2, 1e6, 1e30])
def test_one_cannot_move_it_far(size: float):
    dice = np.random.default_rng(0)
    honest = dice.normal(size=(9, 50)).astype(np.float32)
    lie = np.full((1, 50), size, np.float32)
    moved = clipped_mean(np.concatenate([honest, lie]), np.ones(10)) - honest.mean(axis=0)
    spread = np.median(np.linalg.norm(honest - honest.mean(axis=0), axis=1))
    assert np.linalg.norm(moved) < spread
