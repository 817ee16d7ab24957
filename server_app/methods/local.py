"""Local, the server's half: it says where clients begin and how they train, and gets no model.

The baseline without which no federated figure means much: what each client has from its own images
alone.
"""

from torch import nn

from common.methods.local import Down, Up
from common.sgd import LocalSgd
from server_app.aggregation.expected import Expected
from server_app.families.sharing import Sharing
from server_app.method import MethodSettings, Replies


class Settings(MethodSettings):
    """Local SGD."""

    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Sharing):
    """Nothing is shared."""

    down, up = Down, Up

    def keeps(self, module: nn.Module) -> set[str]:
        """All of it."""
        return {name for name, _ in module.named_parameters()}

    def expects(self, client: int) -> Expected:
        """No tensors."""
        return {}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Nothing changes here."""
        return {}
