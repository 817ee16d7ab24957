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
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

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

RAISE = 1.25
"""Factor of the margin then, for good: a quadratic is stable after four such steps."""

DAMPED = 0.7
"""Share of lambda L_R + P that P + D is; a half is the limit of stability of the server's steps."""

RECENT = 10
"""Steps that are remembered."""

DECAY = 0.9
"""A curvature once seen is forgotten slowly: one flat step must not end the caution."""


class Penalty:
    """P = sum_i rho_i, never below what was set, raised where curvature demands it."""

    def __init__(self, adaptive: bool) -> None:
        self._adaptive = adaptive
        self._needed = 0.0
        self._bend = 0.0
        self._margin = MARGIN
        self._steps: deque[float] = deque(maxlen=RECENT)

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
        needed = self._margin * (1.5 * client_curvature + 0.5 * knowledge_curvature)
        self._needed = max(needed, DECAY * self._needed)
        return max(settled, self._needed)

    def damping(self, penalty: float, knowledge_curvature: float) -> float:
        """D of the server's steps; they are stable if P + D > (lambda L_R + P) / 2."""
        self._bend = max(knowledge_curvature, DECAY * self._bend)
        return max(0.0, DAMPED * (self._bend + penalty) - penalty)

    def shorten(self, step: float, size: float) -> float:
        """Factor, at most 1, by which a step is to be cut.

        Parameters
        ----------
        step: its length.
        size: norm of the model that makes it.
        """
        longest = REACH * size if size > 0 else math.inf
        if len(self._steps) >= FIRST:
            longest = min(longest, GROWTH * median(self._steps))
        if self._adaptive and step > longest:
            self._margin *= RAISE
            factor = longest / step
        else:
            factor = 1.0
        self._steps.append(step * factor)
        return factor

    def restart(self) -> None:
        """Forget curvatures and steps, which were those of a run that had lost its way."""
        self._needed = self._bend = 0.0
        self._steps.clear()

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "needed": self._needed,
            "bend": self._bend,
            "margin": self._margin,
            "steps": list(self._steps),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._needed, self._bend = state["needed"], state["bend"]
        self._margin = state["margin"]
        self._steps = deque(state["steps"], maxlen=RECENT)
