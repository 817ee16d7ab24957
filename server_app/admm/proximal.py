"""The server's proximal problem: what the clients say against lambda R_h.

With P = sum_i rho_i and the drift b = sum_i (y_i + Delta_i), as a step s from theta = theta^t:

    min_s  lambda R_h(theta + s) + P/2 ||s||^2 - <b, s>

Linearised at theta it has a closed form, which is equation (13) of AugFL; so it has where R_h is
w ||theta - theta_c||^2 (``exact`` = w). Further steps, damped by D, come nearer to its solution:

    s_{k+1} = [ D s_k + b - lambda grad R_h(theta + s_k) ] / (P + D),  s_0 = 0
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.errors import SettingsError
from server_app.method import Knowledge

DAMPED = 0.7
"""Share of lambda L_R + P that P + D is; a half is the limit of stability of the server's steps."""


class Proximal:
    """lambda R_h around one theta; without R_h its gradient is zero.

    Attributes
    ----------
    curvature: lambda L_R, along the gradient; 0 where it is not asked for.
    """

    def __init__(
        self, knowledge: Knowledge | None, theta: Tensor, lambda_: float, steps: int, exact: float,
        adaptive: bool,
    ) -> None:  # fmt: skip
        self._knowledge, self._theta, self._lambda = knowledge, theta, lambda_
        self._steps = steps if knowledge is not None else 1
        self._exact = 2 * lambda_ * exact
        self._gradient, self._terms, self.curvature = torch.zeros(()), dict[str, float](), 0.0
        if knowledge is not None:
            self._gradient, self._terms = knowledge.gradient(theta)
            if adaptive or steps > 1:
                self.curvature = lambda_ * knowledge.curvature(theta, self._gradient)

    @property
    def explicit(self) -> float:
        """The curvature that P has to answer: none where R_h enters the step implicitly."""
        return 0.0 if self._steps > 1 or self._exact else self.curvature

    def step(self, drift: Tensor, penalty: float, shorten: Callable[[float], float]) -> Tensor:
        """The step from theta, shape (d,).

        Parameters
        ----------
        drift: b, shape (d,).
        penalty: P.
        shorten: factor by which one of several steps of such a length is to be cut.
        """
        damping = damping_of(penalty, self.curvature) if self._steps > 1 else 0.0
        step, gradient = torch.zeros_like(self._theta), self._gradient
        for k in range(self._steps):
            if k and self._knowledge is not None:
                gradient, self._terms = self._knowledge.gradient(self._theta + step)
            more = step.mul(damping).add_(drift).sub_(gradient, alpha=self._lambda)
            more.div_(penalty + damping + self._exact).sub_(step)
            step.add_(more, alpha=shorten(float(more.norm())) if self._steps > 1 else 1.0)
        return step

    def metrics(self) -> dict[str, float]:
        """What is worth recording of R_h."""
        return {
            **({"transfer_curvature": self.curvature / self._lambda} if self.curvature else {}),
            **({"transfer_gradient": float(self._gradient.norm())} if self._terms else {}),
            **{f"transfer_{name}": value for name, value in self._terms.items()},
        }


def damping_of(penalty: float, knowledge_curvature: float) -> float:
    """D of the server's steps; they are stable if P + D > (lambda L_R + P) / 2."""
    return max(0.0, DAMPED * (knowledge_curvature + penalty) - penalty)


def distance_weight(knowledge: Knowledge | None) -> float:
    """w, where R_h is w ||theta - theta_c||^2.

    Raises
    ------
    SettingsError: it has other terms, for which there is no exact step.
    """
    weight = None if knowledge is None else knowledge.distance_weight
    if weight is None:
        raise SettingsError(
            "augfl.update=exact is for the squared distance alone: set "
            "knowledge.squared-distance above 0 and knowledge.cross-entropy, .kl, .crd and .tasks "
            "to 0, or augfl.update=linearised"
        )
    return weight
