"""FedRep, the server's half (Collins et al., arXiv 2102.07078): average the representation."""

from pydantic import Field
from torch import nn

from common.methods.fedrep import Down, Up
from common.models.parts import top_names
from common.sgd import LocalSgd
from server_app.families.sharing import Sharing
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Local SGD of the head, then of the body."""

    personal_layers: int = Field(
        1, ge=0, le=1000, description="Last layers with parameters that are the head."
    )
    head_epochs: int = Field(5, ge=1, le=1000, description="Local passes a round for the head.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Sharing):
    """phi <- sum_i n_i phi_i / sum_i n_i; without a head it is FedAvg."""

    down, up = Down, Up

    def keeps(self, module: nn.Module) -> set[str]:
        """The head."""
        return top_names(module, self.settings.personal_layers)
