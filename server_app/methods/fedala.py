"""FedALA, the server's half (Zhang et al., arXiv 2212.01197): FedAvg.

p counts layers, as in the paper; in the published code it counts tensors of parameters. There the
first learning of the weights goes on until the loss settles, which may be never: here it ends after
``first-epochs``. Images for the weights are any ``share`` of the local ones, anew in each round. A
client's model is evaluated after its local training, where PFLlib evaluates the mixture before it.
"""

from pydantic import Field

from common.methods.fedala import Down, Up
from common.models.parts import top_names
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies, Setup


class Settings(MethodSettings):
    """Adaptive local aggregation, and local SGD."""

    layers: int = Field(1, ge=0, le=1000, description="Layers p at the top that are mixed.")
    share: float = Field(0.8, gt=0, le=1, description="Of the images, to learn weights on; s.")
    weight_lr: float = Field(1.0, gt=0, le=100, description="Learning rate of the weights.")
    weight_epochs: int = Field(1, ge=0, le=1000, description="Passes for the weights a round.")
    first_epochs: int = Field(10, ge=0, le=1000, description="Passes the first time, at most.")
    settled: float = Field(
        0.1, ge=0, le=100, description="Spread of ten losses at which the first time ends."
    )
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Averaging):
    """Theta <- sum_i n_i Theta_i / sum_i n_i."""

    down, up = Down, Up
    personal = True

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        assert setup.task is not None
        self.top = sorted(top_names(setup.task.build(), settings.layers))

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average."""
        return super().step(round, replies) | {"own_share": replies.mean("own_share")}
