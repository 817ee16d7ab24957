"""Ditto, the server's half (Li et al., arXiv 2012.04221): FedAvg; v_i is the devices' business.

In PFLlib mu is 0 unless one says otherwise, and the best of the global and the personal accuracy
is reported; here mu is 1, of the paper's range, and personal models are evaluated alone.
"""

from pydantic import Field

from common.methods.ditto import Down, Up
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies


class Settings(MethodSettings):
    """Local SGD of the global and of a personal model."""

    mu: float = Field(1.0, ge=0, le=100, description="Weight of mu/2 ||v_i - w^t||^2.")
    own_epochs: int = Field(5, ge=1, le=1000, description="Local passes a round for v_i.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Averaging):
    """w <- sum_i n_i w_i / sum_i n_i."""

    down, up = Down, Up
    personal = True

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average."""
        return super().step(round, replies) | {"own_loss": replies.mean("own_loss")}
