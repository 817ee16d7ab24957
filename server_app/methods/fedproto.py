"""FedProto, the server's half (Tan et al., AAAI 2022): the mean prototype of each class.

All clients that hold a class count the same, as in the published program; the paper's weights
would tell the server how many images of each class a client has.
"""

from pydantic import Field

from common.methods.fedproto import Down, Up
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import AnyOf, Expected
from server_app.aggregation.replies import EMPTY
from server_app.families.own_models import Equally
from server_app.method import MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Learning towards the mean prototype of each class."""

    width: int = Field(512, ge=1, le=4096, description="Features K of every own model.")
    pull: float = Field(
        10.0, ge=0, le=1000, alias="lambda", description="Weight of the distance to prototypes."
    )
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)


class Server(Equally):
    """P^c <- mean of P_i^c over the clients i that hold class c."""

    down, up = Down, Up
    prototypes: Saved[Tensors]
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.prototypes = EMPTY

    def expects(self, client: int) -> Expected:
        """Prototypes of some classes."""
        return {"prototypes": AnyOf(self.of_classes(self.settings.width))}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average; a class that nobody of this round holds keeps its prototype."""
        self.prototypes = replies.averaged("prototypes", self.prototypes)
        return {"classes": float(len(self.prototypes.specs))}
