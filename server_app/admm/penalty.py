"""The penalty rho of AugFL, fixed or adapted, and how far one global update may go.

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
curvature. The steps themselves then do, through their damping.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

from server_app.saved import Saved

MARGIN = 0.5
"""Below one on purpose. A network trained with steps 1/P sharpens until its curvature meets the
limit of stability and stays there (the edge of stability, Cohen et al. 2021): a P that answers
with more than the limit is followed by more curvature, and steps shrink for nothing."""

GROWTH = 3.0
"""Times the median of the recent steps: a longer one shows that this loss does not settle by
itself; it is cut to that length, and the margin rises."""

FIRST = 3
"""Steps that must have been seen before they can judge another."""

REACH = 0.5
"""Share of the model's norm that is the longest step at any time; usual ones are under a fifth."""

STRIDE = 0.05
"""Share of the model's norm that is the longest of the server's several steps of a round, as in
``transfer``: the same on every data set, however curved R_h is."""

RAISE = 1.25
"""Factor of the margin then, for good: a quadratic is stable after four such steps."""

DAMPED = 0.7
"""Share of lambda L_R + P that P + D is; a half is the limit of stability of the server's steps."""

RECENT = 10
"""Steps that are remembered."""

DECAY = 0.9
"""A curvature once seen is forgotten slowly: one flat step must not end the caution."""


class Penalty:
    """P = sum_i rho_i, never below what was set, raised where curvature demands it.

    Attributes
    ----------
    needed: P that the curvatures seen so far demand.
    margin: share of the bound of stability that P answers with.
    steps: lengths of the recent steps.
    moved: length of the last step.
    stepped: its round; 0 if there is none.
    """

    needed: Saved[float]
    margin: Saved[float]
    steps: Saved[list[float]]
    moved: Saved[float]
    stepped: Saved[int]

    def __init__(self, adaptive: bool) -> None:
        self._adaptive = adaptive
        self.margin, self.steps = MARGIN, []
        self.needed = self.moved = 0.0
        self.stepped = 0

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
        consecutive = self.stepped > 0 and all(base == self.stepped for base in bases)
        if consecutive and self.moved > 0 and 2 * replied > 1:
            # Once the steps are small, rounding and the shrinking delta are all that the secant
            # sees; without the bound it would raise rho, which makes the steps smaller still.
            return min(bound, change / replied / self.moved)
        return bound

    def total(self, settled: float, client_curvature: float, knowledge_curvature: float) -> float:
        """P for this round.

        Parameters
        ----------
        settled: sum of rho_i as set.
        client_curvature: L, of sum_i w_i F_i.
        knowledge_curvature: lambda L_R.
        """
        if not self._adaptive:
            return settled
        needed = self.margin * (1.5 * client_curvature + 0.5 * knowledge_curvature)
        self.needed = max(needed, DECAY * self.needed)
        return max(settled, self.needed)

    def damping(self, penalty: float, knowledge_curvature: float) -> float:
        """D of the server's steps; they are stable if P + D > (lambda L_R + P) / 2."""
        return max(0.0, DAMPED * (knowledge_curvature + penalty) - penalty)

    def stride(self, step: float, size: float) -> float:
        """Factor, at most 1, by which one of the server's several steps of a round is to be cut.

        Their damping trusts one secant on one mini-batch, which may tell far too little.

        Parameters
        ----------
        step: its length.
        size: norm of the model that makes it.
        """
        if not self._adaptive or size == 0:
            return 1.0
        return min(1.0, STRIDE * size / step) if step > 0 else 1.0

    def shorten(self, step: float, size: float) -> float:
        """Factor, at most 1, by which a step is to be cut.

        Parameters
        ----------
        step: its length.
        size: norm of the model that makes it.
        """
        longest = REACH * size if size > 0 else math.inf
        if len(self.steps) >= FIRST:
            longest = min(longest, GROWTH * median(self.steps))
        if self._adaptive and step > longest:
            self.margin *= RAISE
            factor = longest / step
        else:
            factor = 1.0
        self.steps = [*self.steps, step * factor][-RECENT:]
        return factor

    def restart(self) -> None:
        """Forget curvatures and steps, which were those of a run that had lost its way."""
        self.needed = self.moved = 0.0
        self.steps, self.stepped = [], 0
