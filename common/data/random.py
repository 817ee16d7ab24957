"""Random numbers that are the same on every machine and stay the same."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, number: int = 0) -> np.random.RandomState:
    """An independent stream of random numbers for one purpose.

    Server and devices compute the same plan with whatever NumPy they have. ``RandomState`` is
    the one generator whose stream NumPy has frozen; ``Generator`` may change with a release.
    """
    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number])
    return np.random.RandomState(np.random.MT19937(entropy))
