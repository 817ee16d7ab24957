"""FedPer, the server's half (Arivazhagan et al., arXiv 1912.00818): average the base layers."""

from pydantic import Field
from torch import nn

from common.methods.fedper import Down, Up
from common.models.parts import top_names
from common.sgd import LocalSgd
from server_app.families.sharing import Sharing
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Local SGD, and how much of the network is personal."""

    personal_layers: int = Field(
        1, ge=0, le=1000, description="Last layers with parameters that stay with a client."
    )
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Sharing):
    """W_B <- sum_i n_i W_B,i / sum_i n_i; without personal layers it is FedAvg."""

    down, up = Down, Up

    def keeps(self, module: nn.Module) -> set[str]:
        """The personal layers."""
        return top_names(module, self.settings.personal_layers)
