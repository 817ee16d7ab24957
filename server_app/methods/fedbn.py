"""FedBN, the server's half (Li et al., arXiv 2102.07623): average all but normalisation layers.

A network without such layers has nothing to keep: then it is FedAvg. The paper is about BatchNorm;
group, layer and instance normalisation are kept alike.
"""

from torch import nn

from common.methods.fedbn import Down, Up
from common.models.parts import norm_names
from common.sgd import LocalSgd
from server_app.families.sharing import Sharing
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Local SGD."""

    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Sharing):
    """theta <- sum_i n_i theta_i / sum_i n_i, for all layers that do not normalise."""

    down, up = Down, Up

    def keeps(self, module: nn.Module) -> set[str]:
        """Scales, shifts and, by ``Sharing``, running statistics."""
        return norm_names(module)
