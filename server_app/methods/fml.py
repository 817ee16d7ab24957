"""FML, the server's half (arXiv 2006.16765): the plain mean of the shared models."""

from pydantic import Field

from common.methods.fml import Down, Up
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies


class Settings(MethodSettings):
    """Mutual learning of a shared and an own model."""

    alpha: float = Field(0.5, ge=0, le=1, description="Own model: weight of cross-entropy.")
    beta: float = Field(0.5, ge=0, le=1, description="Shared model: weight of cross-entropy.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Averaging):
    """theta <- the mean of theta_i, each client counting the same, as published."""

    down, up = Down, Up
    personal = True

    def weight(self, client: int, up: Up) -> float:
        """All clients count the same."""
        return 1.0

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average."""
        return super().step(round, replies) | {"own_loss": replies.mean("own_loss")}
