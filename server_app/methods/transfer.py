"""Knowledge transfer only: steps along -grad R_h(theta, theta_p), no client trains.

The published ablation "Only KT". Nothing crosses the wire in training, so there is no contract and
no device half.
"""

from __future__ import annotations

import torch
from pydantic import Field

from common.errors import DivergedError
from common.tensors import Tensors
from server_app.knowledge.descent import Descent
from server_app.method import Method, MethodSettings, Replies, Saved, Setup


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
    descent: Saved[Descent]
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.descent = Descent()

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """One round's steps on R_h.

        Raises
        ------
        DivergedError: R_h has grown out of all bounds.
        """
        knowledge, rules = self.setup.knowledge, self.settings
        assert knowledge is not None
        start = torch.tensor(self.model.vector)
        theta = start.clone()
        try:
            terms = self.descent(knowledge, theta, rules.steps, rules.rate)
        except DivergedError as error:
            advice = f"lower transfer.rate={rules.rate:g}"
            raise DivergedError(f"round {round}: {error}; {advice}") from None
        self.model = self.model.with_vector(theta.numpy())
        return terms | {"step_norm": float((theta - start).norm())}
