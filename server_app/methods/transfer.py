"""Knowledge transfer only: theta <- theta - rate * grad R_h(theta, theta_p), no client trains.

The published ablation "Only KT". Nothing crosses the wire in training, so there is no contract
and no device half.
"""

from __future__ import annotations

import torch
from pydantic import Field

from common.errors import DivergedError
from common.tensors import Tensors
from server_app.method import Method, MethodSettings, Replies, Saved
from server_app.usual import CAP


class Settings(MethodSettings):
    """Gradient descent on R_h."""

    rate: float = Field(0.1, gt=0, le=10, description="Step along the gradient of R_h.")
    steps: int = Field(5, ge=1, le=1000, description="Steps in a round, as many as AugFL's.")

    @property
    def uses_knowledge(self) -> bool:
        """Always."""
        return True


class Server(Method):
    """Gradient descent on R_h alone."""

    model: Saved[Tensors]
    settings: Settings

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
            theta.sub_(slope, alpha=self.settings.rate)
        self.model = self.model.with_vector(theta.numpy())
        return {f"transfer_{name}": value for name, value in terms.items()} | {
            "step_norm": float((theta - start).norm())
        }
