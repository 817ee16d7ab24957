"""Gradient descent on R_h by steps that mean the same on every data set.

A rate over the gradient's units that is right for one data set diverges on another. Here a step is
a share of the model's own norm, as in LARS (You et al. 2017, arXiv 1708.03888), and shorter where
the gradient has been longer lately.
"""

from __future__ import annotations

from torch import Tensor

from common.errors import DivergedError
from server_app.method import Knowledge
from server_app.saved import Saved
from server_app.validation.outliers import CAP

DECAY = 0.9
"""A gradient's norm is forgotten slowly, so that steps shorten as gradients vanish."""


class Descent:
    """Steps along -grad R_h.

    Attributes
    ----------
    longest: norm of the gradients lately.
    """

    longest: Saved[float]

    def __init__(self) -> None:
        self.longest = 0.0

    def __call__(
        self, knowledge: Knowledge, theta: Tensor, steps: int, rate: float
    ) -> dict[str, float]:
        """Move ``theta``, shape (d,), in place; gives the terms of R_h at the last step.

        Parameters
        ----------
        rate: longest step, as a share of the model's norm.

        Raises
        ------
        DivergedError: R_h has grown out of all bounds.
        """
        terms = dict[str, float]()
        for _ in range(steps):
            grad, terms = knowledge.gradient(theta)
            if not terms["loss"] <= CAP:
                raise DivergedError(f"diverged, R_h is {terms['loss']:.3g}")
            self.longest = max(float(grad.norm()), DECAY * self.longest)
            if self.longest > 0:
                theta.sub_(grad, alpha=rate * float(theta.norm()) / self.longest)
        return {f"transfer_{name}": value for name, value in terms.items()}
