"""Knowledge transfer only: steps along -grad R_h(theta, theta_p), no client trains.

The published ablation "Only KT". A rate over the gradient's units that is right for one data set
diverges on another. Here a step is a share of the model's own norm, as in LARS (You et al. 2017,
arXiv 1708.03888), and shorter where the gradient has been longer lately. Nothing crosses the wire
in training, so there is no contract and no device half.
"""

from __future__ import annotations

import torch
from pydantic import Field

from common.errors import DivergedError
from common.tensors import Tensors
from server_app.method import Method, MethodSettings, Replies, Saved, Setup
from server_app.validation.outliers import CAP

DECAY = 0.9
"""A gradient's norm is forgotten slowly, so that steps shorten as gradients vanish."""


class Settings(MethodSettings):
    """Gradient descent on R_h."""

    rate: float = Field(
        0.05, gt=0, le=1, description="Longest step along R_h's gradient, over the model's norm."
    )
    steps: int = Field(5, ge=1, le=1000, description="Steps in a round, as many as AugFL's.")

    @property
    def uses_knowledge(self) -> bool:
        """Always."""
        return True


class Server(Method):
    """Gradient descent on R_h alone."""

    model: Saved[Tensors]
    longest: Saved[float]  # norm of the gradients lately
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.longest = 0.0

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """One round's steps on R_h.

        Raises
        ------
        DivergedError: R_h has grown out of all bounds.
        """
        knowledge = self.setup.knowledge
        assert knowledge is not None
        start = torch.tensor(self.model.vector)
        theta, terms = start.clone(), dict[str, float]()
        for _ in range(self.settings.steps):
            slope, terms = knowledge.gradient(theta)
            if not terms["loss"] <= CAP:
                raise DivergedError(
                    f"round {round}: diverged, R_h is {terms['loss']:.3g}; lower transfer.rate="
                    f"{self.settings.rate:g}"
                )
            self.longest = max(float(slope.norm()), DECAY * self.longest)
            if self.longest > 0:
                rate = self.settings.rate * float(theta.norm()) / self.longest
                theta.sub_(slope, alpha=rate)
        self.model = self.model.with_vector(theta.numpy())
        return {f"transfer_{name}": value for name, value in terms.items()} | {
            "step_norm": float((theta - start).norm())
        }
