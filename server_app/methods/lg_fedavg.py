"""LG-FedAvg, the server's half (Liang et al., 2020): the heads' average by data size."""

from pydantic import Field
from torch import nn

from common.methods.lg_fedavg import Down, Up
from common.models.seeded import seeded
from common.models.state import state_of
from common.seeds import seed_for
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import Expected, Vector
from server_app.families.own_models import OwnModels
from server_app.method import MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Own bodies, one head."""

    width: int = Field(512, ge=1, le=4096, description="Features K of every own model.")
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)


class Server(OwnModels):
    """theta <- sum_i n_i theta_i / sum_i n_i, of the head alone."""

    down, up = Down, Up
    head: Saved[Tensors]
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        layer = seeded(
            lambda: nn.Linear(settings.width, self.task.classes), seed_for(setup.seed, "head")
        )
        self.head = state_of(layer)

    def expects(self, client: int) -> Expected:
        """A change of the head."""
        return {"change": Vector(self.head.specs)}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average."""
        self.head = replies.moved("change", self.head)
        return {}
