"""The penalty rho of AugFL, fixed or adapted so that the global update stays stable.

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
"""

from __future__ import annotations

MARGIN = 1.5
"""A secant looks along one direction only, and the loss is no quadratic."""

DECAY = 0.9
"""A curvature once seen is forgotten slowly: one flat step must not end the caution."""


class Penalty:
    """P = sum_i rho_i, never below what was set, raised where curvature demands it."""

    def __init__(self, adaptive: bool) -> None:
        self._adaptive = adaptive
        self.needed = 0.0

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
        needed = MARGIN * (1.5 * client_curvature + 0.5 * knowledge_curvature)
        self.needed = max(needed, DECAY * self.needed)
        return max(settled, self.needed)
