"""FedProx, the server's half (Li et al., 2020): FedAvg's average; mu is the devices' business."""

from pydantic import Field

from common.methods.fedprox import Down, Up
from server_app.averaging import Averaging
from server_app.method import MethodSettings, Setup
from server_app.seeds import seed_for


class Settings(MethodSettings):
    """Local SGD with a proximal term."""

    mu: float = Field(0.01, ge=0, le=100, description="Weight of mu/2 ||theta - theta^t||^2.")
    lr: float = Field(0.05, gt=0, le=10, description="Local learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Of local SGD.")
    epochs: int = Field(1, ge=1, le=1000, description="Local passes a round.")
    batch_size: int = Field(0, ge=0, description="Images a step; 0 takes all.")


class Server(Averaging):
    """theta <- sum_i n_i theta_i / sum_i n_i."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(setup)
        self._settings = settings
        self._seed = setup.seed

    def broadcast(self, round: int, node: int) -> Down:
        """The global model, mu and how to train."""
        s = self._settings
        return Down(
            round, self.model, self.buffers, s.mu, s.lr, s.momentum, s.epochs, s.batch_size,
            seed_for(self._seed, round, node),
        )  # fmt: skip

    def absorb(self, node: int, up: Up) -> None:
        """Add one client's change, weighted by its number of images."""
        self.add(up.change, up.examples, up.loss, up.buffers)
