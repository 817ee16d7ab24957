"""FedGH, the server's half (Yi et al., ACM MM 2023): a head trained on the clients' prototypes.

    min_theta sum_{i, c} CE(h(P_i^c; theta), c)

by SGD from the head of the round before. The first head is the server's own, not that of a client.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import nn

from common.methods.fedgh import Down, Up
from common.models.seeded import seeded
from common.models.state import load_state, state_of
from common.seeds import seed_for
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import AnyOf, Expected
from server_app.families.fit import descend, rows_of
from server_app.families.own_models import OwnModels
from server_app.method import MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Own bodies, and a head that the server trains."""

    width: int = Field(512, ge=1, le=4096, description="Features K of every own model.")
    server_lr: float = Field(0.01, gt=0, le=10, description="Server: learning rate.")
    server_epochs: int = Field(1, ge=1, le=10_000, description="Server: passes a round.")
    server_batch: int = Field(10, ge=1, description="Server: prototypes a step.")
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)


class Server(OwnModels):
    """SGD on the loss above."""

    down, up, collects = Down, Up, frozenset({"prototypes"})
    head: Saved[Tensors]
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.head = state_of(seeded(self._build, seed_for(setup.seed, "head")))

    def _build(self) -> nn.Linear:
        return nn.Linear(self.settings.width, self.task.classes)

    def expects(self, client: int) -> Expected:
        """Prototypes of some classes."""
        return {"prototypes": AnyOf(self.of_classes(self.settings.width))}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Train the head on the prototypes that came."""
        settings = self.settings
        rows, labels = rows_of(replies.each("prototypes"))
        net = self._build()
        load_state(net, self.head)
        loss = descend(
            net, lambda some: F.cross_entropy(net(rows[some]), labels[some]), len(rows),
            rate=settings.server_lr, size=settings.server_batch, epochs=settings.server_epochs,
            seed=seed_for(self.setup.seed, "server", round),
        )  # fmt: skip
        self.head = state_of(net)
        return {"server_loss": loss}
