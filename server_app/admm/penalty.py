"""The penalty rho of AugFL, fixed or adapted to the curvature.

Under full participation AugFL is

    theta^{t+1} = theta^t - [2 g^t - g^{t-1} + lambda grad R_h(theta^t)] / P,   P = sum_i rho_i,

with g = sum_i w_i G_i. On a quadratic with curvature L of sum_i w_i F_i and L_R of R_h along one
eigenvector it is stable if and only if P > 1.5 L + 0.5 lambda L_R. Both curvatures come without
extra work for the devices. L is the secant of g between two rounds, which the server can form from
the sum of the duals; it lies along the step that was just made, so that a direction which begins to
diverge shows itself. It counts for no more than what the finite difference of equation (10) holds
anyway, sum_i w_i ||H_i r_i|| / ||r_i||, which also serves where there is no such secant: in the
first round, and when other clients reply than in the round before.
L_R is the secant of one more gradient of R_h on the same mini-batch.

Where the server solves its proximal problem by several steps, the update is forward-reflected-
backward splitting (Malitsky and Tam 2020): R_h enters implicitly, and P need not answer its
curvature. The steps themselves then do, through their damping (``proximal.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from server_app.aggregation.losses import bound
from server_app.saved import Saved

MARGIN = 0.5
"""Below one on purpose. A network trained with steps 1/P sharpens until its curvature meets the
limit of stability and stays there (the edge of stability, Cohen et al. 2021): a P that answers
with more than the limit is followed by more curvature, and steps shrink for nothing."""

RAISE = 1.25
"""Factor of the margin, for good, where a step was far too long: a quadratic is stable after four
of them."""

DECAY = 0.9
"""A curvature once seen is forgotten slowly: one flat step must not end the caution."""


SPREAD = 0.3
"""Deviation of the logarithms of a round's curvatures, at least."""


def usual_curvature(curvatures: Sequence[float]) -> float:
    """What none of a round's curvatures counts for more than.

    A curvature is what its sender says, and one honest client may have ten times that of others.
    """
    positive = [curvature for curvature in curvatures if curvature > 0]
    return math.exp(bound(np.log(positive).tolist(), SPREAD)) if positive else 0.0


class Penalty:
    """P = sum_i rho_i, never below what was set, raised where curvature demands it.

    Attributes
    ----------
    rho: rho_i as set, or raised after a return to an earlier model.
    used: rho_i of the last step.
    needed: P that the curvatures seen so far demand.
    margin: share of the bound of stability that P answers with.
    length, round: of the last step; 0 if there is none.
    """

    rho: Saved[float]
    used: Saved[float]
    needed: Saved[float]
    margin: Saved[float]
    length: Saved[float]
    round: Saved[int]

    def __init__(self, rho: float, adaptive: bool) -> None:
        self._adaptive = adaptive
        self.rho = self.used = rho
        self.margin, self.needed = MARGIN, 0.0
        self.length, self.round = 0.0, 0

    def secant(self, change: float, bound: float, replied: float, bases: Iterable[int]) -> float:
        """Curvature L of sum_i w_i F_i: along the last step, at most the clients' bound.

        Those that were acknowledged in the last step as well speak for all, if they are the most.

        Parameters
        ----------
        change: norm of the sum of this round's increments.
        bound: sum_i w_i ||H_i r_i|| / ||r_i||, over all clients in Y.
        replied: share of Y, by weight, that replied in this round.
        bases: round of the dual that each reply starts from.
        """
        consecutive = self.round > 0 and all(base == self.round for base in bases)
        if consecutive and self.length > 0 and 2 * replied > 1:
            # Once the steps are small, rounding and the shrinking delta are all that the secant
            # sees; without the bound it would raise rho, which makes the steps smaller still.
            return min(bound, change / replied / self.length)
        return bound

    def total(self, clients: int, client_curvature: float, knowledge_curvature: float) -> float:
        """P for this round.

        Parameters
        ----------
        clients: number of clients whose duals are in Y.
        client_curvature: L, of sum_i w_i F_i.
        knowledge_curvature: lambda L_R.
        """
        total = self.rho * clients
        if self._adaptive:
            needed = self.margin * (1.5 * client_curvature + 0.5 * knowledge_curvature)
            self.needed = max(needed, DECAY * self.needed)
            total = max(total, self.needed)
        self.used = total / clients
        return total

    def note(self, round: int, length: float, cut: bool) -> None:
        """A step was made; if it had to be cut, the margin rises."""
        self.round, self.length = round, length
        self.margin *= RAISE if cut else 1.0

    def forget_step(self) -> None:
        """The next increments are no change since the last step."""
        self.round, self.length = 0, 0.0

    def restart(self, double: bool) -> None:
        """Forget the curvatures of a run that had lost its way, and raise rho if that is why."""
        self.needed = 0.0
        self.forget_step()
        if double:
            self.rho = 2 * self.used
