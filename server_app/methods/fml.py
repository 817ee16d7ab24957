"""FML, the server's half (arXiv 2006.16765): the plain mean of the shared models."""

from pydantic import Field

from common.methods.fml import Down, Up
from server_app.averaging import Averaging
from server_app.method import MethodSettings, Setup
from server_app.seeds import seed_for


class Settings(MethodSettings):
    """Mutual learning of a shared and an own model."""

    alpha: float = Field(0.5, ge=0, le=1, description="Own model: weight of cross-entropy.")
    beta: float = Field(0.5, ge=0, le=1, description="Shared model: weight of cross-entropy.")
    lr: float = Field(0.05, gt=0, le=10, description="Local learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Of local SGD.")
    epochs: int = Field(1, ge=1, le=1000, description="Local passes a round.")
    batch_size: int = Field(0, ge=0, description="Images a step; 0 takes all.")


class Server(Averaging):
    """theta <- the mean of theta_i, each client counting the same, as published."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(setup)
        self._settings = settings
        self._seed = setup.seed

    def broadcast(self, round: int, node: int) -> Down:
        """The shared model and how to train it beside the own one."""
        s = self._settings
        return Down(
            round, self.model, self.buffers, s.alpha, s.beta, s.lr, s.momentum, s.epochs,
            s.batch_size, seed_for(self._seed, round, node),
        )  # fmt: skip

    def weight(self, up: Up) -> int:
        """All clients count the same."""
        return 1

    def absorb(self, node: int, up: Up) -> None:
        """Add one client's change."""
        self.add(up.change, self.weight(up), up.loss, up.buffers)
        self._own_loss += up.own_loss
        self._replies += 1

    def step(self, round: int) -> dict[str, float]:
        """Average."""
        own_loss = self._own_loss / self._replies
        return super().step(round) | {"own_loss": own_loss}

    def discard(self) -> None:
        """Forget the replies of this round."""
        super().discard()
        self._own_loss = 0.0
        self._replies = 0
