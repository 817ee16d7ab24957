"""FedDistill, the server's half (Jeong et al., 2018): the mean logits of each class.

The mean is over all clients that hold the class; the paper leaves each client's own share out of
what it is sent.
"""

from pydantic import Field

from common.methods.feddistill import Down, Up
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import AnyOf, Expected
from server_app.aggregation.replies import EMPTY
from server_app.families.own_models import Equally
from server_app.method import MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Distillation of the mean answer to each class."""

    pull: float = Field(1.0, ge=0, le=1000, alias="lambda", description="Weight of distillation.")
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)


class Server(Equally):
    """zbar^c <- mean of z_i^c over the clients i that hold class c."""

    down, up = Down, Up
    logits: Saved[Tensors]

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.logits = EMPTY

    def expects(self, client: int) -> Expected:
        """Mean logits of some classes."""
        return {"logits": AnyOf(self.of_classes(self.task.classes))}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average; a class that nobody of this round holds keeps its logits."""
        self.logits = replies.averaged("logits", self.logits)
        return {"classes": float(len(self.logits.specs))}
