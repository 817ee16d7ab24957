"""Per-FedAvg, the server's half (Fallah et al., 2020, algorithm 1): an average."""

from typing import Literal

from pydantic import Field

from common.methods.per_fedavg import Down, Up
from server_app.averaging import Averaging
from server_app.method import MethodSettings, Setup
from server_app.seeds import seed_for


class Settings(MethodSettings):
    """Local meta-steps."""

    alpha: float = Field(0.05, gt=0, le=10, description="Adaptation rate.")
    beta: float = Field(0.05, gt=0, le=10, description="Meta learning rate of the local steps.")
    steps: int = Field(1, ge=1, le=1000, description="Local meta-steps tau a round.")
    variant: Literal["first-order", "hessian-free"] = Field(
        "hessian-free", description="How the Hessian is treated: dropped, or by differences."
    )
    delta: float = Field(0.01, gt=0, le=1, description="Step of the finite difference.")
    batch_size: int = Field(0, ge=0, description="Images a gradient; 0 takes all.")

    @property
    def adaptation_rate(self) -> float:
        """That of the inner step."""
        return self.alpha


class Server(Averaging):
    """w <- sum_i n_i w_i / sum_i n_i."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(setup)
        self._settings = settings
        self._seed = setup.seed

    def broadcast(self, round: int, node: int) -> Down:
        """The global model and how to meta-train it."""
        s = self._settings
        return Down(
            round, self.model, s.alpha, s.beta, s.steps, s.variant, s.delta, s.batch_size,
            seed_for(self._seed, round, node),
        )  # fmt: skip

    def absorb(self, node: int, up: Up) -> None:
        """Add one client's change, weighted by its number of images."""
        self.add(up.change, up.examples, up.loss)
