"""Knowledge transfer only: theta <- theta - rate * grad R_h(theta, theta_p), no client trains.

The published ablation "Only KT". Nothing crosses the wire in training, so there is no contract
and no device half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field

from common.errors import DivergedError
from common.tensors import Tensors
from server_app.method import MethodSettings, Setup, State
from server_app.usual import CAP


class Settings(MethodSettings):
    """Gradient descent on R_h."""

    rate: float = Field(0.1, gt=0, le=10, description="Step along the gradient of R_h.")
    steps: int = Field(5, ge=1, le=1000, description="Steps in a round, as many as AugFL's.")

    @property
    def uses_knowledge(self) -> bool:
        """Always."""
        return True


class Server:
    """Gradient descent on R_h alone."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        assert setup.knowledge is not None
        self.model = setup.model
        self.buffers = setup.buffers
        self._settings = settings
        self._knowledge = setup.knowledge

    @property
    def loss(self) -> float:
        """No client tells of one."""
        return math.nan

    @property
    def lost(self) -> float:
        """Without a loss, nothing shows it."""
        return math.inf

    def enrol(self, node: int, examples: int) -> None:
        """Sources do not take part."""

    def leave(self, nodes: Sequence[int]) -> None:
        """Sources do not take part."""

    def step(self, round: int) -> dict[str, float]:
        """One round's steps on R_h.

        Raises
        ------
        DivergedError: R_h has grown out of all bounds.
        """
        start = torch.tensor(self.model.vector)
        theta, terms = start.clone(), dict[str, float]()
        for _ in range(self._settings.steps):
            slope, terms = self._knowledge.gradient(theta)
            if not terms["loss"] <= CAP:
                raise DivergedError(
                    f"round {round}: diverged, R_h is {terms['loss']:.3g}; lower transfer.rate="
                    f"{self._settings.rate:g}"
                )
            theta.sub_(slope, alpha=self._settings.rate)
        self.model = self.model.with_vector(theta.numpy())
        return {f"transfer_{name}": value for name, value in terms.items()} | {
            "step_norm": float((theta - start).norm())
        }

    def discard(self) -> None:
        """There are no replies."""

    def go_back(self, model: Tensors, buffers: Tensors, blamed: bool) -> bool:
        """Take an earlier model."""
        self.model, self.buffers = model, buffers
        return False

    def state(self) -> State:
        """Model and buffers."""
        return {"model": self.model, "buffers": self.buffers}, {}

    def load_state(self, state: State) -> None:
        """Take up model and buffers."""
        self.model, self.buffers = state[0]["model"], state[0]["buffers"]
