"""Draw images so that each class keeps its share."""

from __future__ import annotations

import numpy as np

from common.data.images import Indices


def take(
    labels: Indices, pool: Indices, count: int, random: np.random.RandomState
) -> tuple[Indices, Indices]:
    """Draw ``count`` images from ``pool``, each class by its share in it (largest remainder).

    Returns
    -------
    The images taken and those left, both in random order.
    """
    pool = random.permutation(pool)
    present, where = np.unique(labels[pool], return_inverse=True)
    sizes = np.bincount(where, minlength=len(present))
    exact = sizes * (count / max(len(pool), 1))
    quota = np.floor(exact).astype(np.int64)
    short = count - int(quota.sum())
    quota[np.argsort(quota - exact, kind="stable")[:short]] += 1
    chosen = np.zeros(len(pool), bool)
    for position, size in enumerate(quota):
        chosen[np.flatnonzero(where == position)[:size]] = True
    # The last images to be chosen are of the classes whose quota was filled last: mix again.
    return random.permutation(pool[chosen]), random.permutation(pool[~chosen])
