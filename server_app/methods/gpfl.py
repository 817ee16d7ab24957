"""GPFL, the server's half (Zhang et al., arXiv 2308.10279): average all but the head.

The published code makes a client's contexts of its embeddings before it takes over the global ones;
here they are the global ones. lambda and mu are its authors' for the 4-layer CNN; the third
term of the loss is a mean over images, as in the paper.
"""

from pydantic import Field
from torch import nn

from common.methods.gpfl import Down, Up
from common.models import parts
from common.models.conditional import Guided
from common.sgd import LocalSgd
from server_app.families.sharing import Sharing
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Guidance by embeddings of the classes, and local SGD."""

    magnitude: float = Field(
        0.01, ge=0, le=100, alias="lambda", description="Weight of the distance to embeddings."
    )
    decay: float = Field(0.1, ge=0, le=10, alias="mu", description="Of embeddings and valve.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Sharing):
    """W <- sum_i n_i W_i / sum_i n_i, of body, embeddings and valve."""

    down, up = Down, Up

    def extend(self, network: nn.Module) -> nn.Module:
        """With embeddings and valve."""
        return Guided(network)

    def keeps(self, module: nn.Module) -> set[str]:
        """The head."""
        return {f"network.{name}" for name in parts.head_names(module.get_submodule("network"))}
