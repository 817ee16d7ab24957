"""Per-FedAvg, the server's half (Fallah et al., 2020, algorithm 1): an average."""

from typing import Literal

from pydantic import Field

from common.methods.per_fedavg import Down, Up
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Local meta-steps."""

    alpha: float = Field(0.05, gt=0, le=10, description="Adaptation rate.")
    beta: float = Field(0.05, gt=0, le=10, description="Meta learning rate of the local steps.")
    steps: int = Field(5, ge=1, le=1000, description="Local meta-steps tau a round.")
    variant: Literal["first-order", "hessian-free"] = Field(
        "hessian-free", description="How the Hessian is treated: dropped, or by differences."
    )
    delta: float = Field(0.002, gt=0, le=1, description="Step of the finite difference.")
    batch_size: int = Field(10, ge=0, description="Images a gradient; 0 takes all.")

    @property
    def adaptation_rate(self) -> float:
        """That of the inner step."""
        return self.alpha


class Server(Averaging):
    """w <- sum_i n_i w_i / sum_i n_i."""

    down, up = Down, Up
