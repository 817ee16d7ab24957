"""FedDBE, the server's half (Zhang et al., arXiv 2311.14975): FedAvg, and once the consensus.

In PFLlib kappa is 0 unless one says otherwise; here kappa is 50 and mu 1, as its authors have them
for Fashion-MNIST. Their warm-up is a round whose training is thrown away, and a client's mean of
features the running one at its end; here that round counts as one of FedAvg, and the mean is over
all images as they are trained on.
"""

from pydantic import Field

from common.methods.feddbe import Down, Up
from common.models.parts import feature_size
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import Exactly, Expected
from server_app.aggregation.replies import EMPTY
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Mean regularisation, and local SGD."""

    kappa: float = Field(50.0, ge=0, le=10_000, description="Weight of the mean regularisation.")
    momentum: float = Field(1.0, gt=0, le=1, description="Of the running mean of the features.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Averaging):
    """theta <- sum_i n_i theta_i / sum_i n_i; zbar = sum_i n_i zbar_i / sum_i n_i, in round 1."""

    down, up = Down, Up
    personal = True
    consensus: Saved[Tensors]

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        assert setup.task is not None
        self._width, self.consensus = feature_size(setup.task.build()), EMPTY

    def expects(self, client: int) -> Expected:
        """The mean of features besides, once."""
        features = Exactly((("features", (self._width,), "float32"),))
        return {**super().expects(client), "features": features}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average."""
        if not len(self.consensus):
            self.consensus = replies.averaged("features", EMPTY)
        return super().step(round, replies)
