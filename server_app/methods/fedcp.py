"""FedCP, the server's half (Zhang et al., arXiv 2307.01217): average all but the personal head.

lambda is its authors'. A model that is used, not trained, takes the mean of the policy instead of a
sample. The policy has 527,360 parameters for 512 features, nearly as many as the 4-layer CNN.
"""

from pydantic import Field
from torch import nn

from common.methods.fedcp import Down, Up
from common.models import parts
from common.models.conditional import Separated
from common.sgd import LocalSgd
from server_app.families.sharing import Sharing
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Conditional separation of features, and local SGD."""

    pull: float = Field(
        5.0, ge=0, le=1000, alias="lambda", description="Weight of the features' MMD."
    )
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Sharing):
    """W <- sum_i n_i W_i / sum_i n_i, of body, global head and policy."""

    down, up = Down, Up

    def extend(self, network: nn.Module) -> nn.Module:
        """With the global head and the policy."""
        return Separated(network)

    def keeps(self, module: nn.Module) -> set[str]:
        """The personal head."""
        return {f"network.{name}" for name in parts.head_names(module.get_submodule("network"))}
