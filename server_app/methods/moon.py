"""MOON, the server's half (Li, He and Song, arXiv 2103.16257): FedAvg.

In PFLlib mu is 0 unless one says otherwise, which is FedAvg. The features are those of the
network's body; the paper's additional projection head is not there.
"""

from pydantic import Field

from common.methods.moon import Down, Up
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies


class Settings(MethodSettings):
    """Local SGD with a contrastive loss."""

    mu: float = Field(1.0, ge=0, le=100, description="Weight of the contrastive loss.")
    temperature: float = Field(0.5, gt=0, le=100, description="Of its cosines, tau.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Averaging):
    """w <- sum_i n_i w_i / sum_i n_i."""

    down, up = Down, Up

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average."""
        metrics = {"contrastive_loss": replies.mean("contrastive_loss")}
        return super().step(round, replies) | metrics
