"""A device that adds to its increments, round after round, what the public sketch does not see."""

from __future__ import annotations

import numpy as np
from flwr.app import Message

from common.sketch import NUMBERS, sketch
from common.wire import PLAIN

PUSH = 20.0
"""Norm of what is added, over that of the device's first dual: half of it is what the gate sees of
an increment, and is well under what it lets pass."""


def blind(size: int, seed: int = 0) -> np.ndarray:
    """A unit vector whose public sketch is zero, shape (size,)."""
    dice = np.random.default_rng(seed)
    basis = dice.normal(size=(NUMBERS + 1, size)).astype(np.float32)
    sketches = np.array([sketch(vector) for vector in basis])
    # Nine vectors have a combination that eight numbers do not see.
    weights = np.linalg.svd(sketches.T)[2][-1].astype(np.float32)
    drift = weights @ basis
    return drift / np.linalg.norm(drift)


class Drifter:
    """Changes the replies of one node; call it for each of them."""

    def __init__(self) -> None:
        self._drift: np.ndarray | None = None

    def __call__(self, reply: Message) -> None:
        honest = np.frombuffer(reply.content[PLAIN]["increment.float32"], "<f4")
        if self._drift is None:  # in its first reply the increment is the whole dual
            self._drift = PUSH * float(np.linalg.norm(honest)) * blind(len(honest))
        if reply.content[PLAIN]["round"] > 5:
            moved = (honest + self._drift).astype("<f4")
            reply.content[PLAIN]["increment.float32"] = moved.tobytes()
