"""FedTGP, the server's half (Zhang et al., AAAI 2024): prototypes trained to lie apart.

    Phat^c = FC2(ReLU(FC1(E[c])))
    L = CE(-||P_i^c - Phat^.|| - delta [.=c], c)      for each prototype that a client has sent
    delta = min(max_c min_{c' != c} ||Q^c - Q^c'||, tau)

Q^c is the plain mean of what came of class c; the maximum is over classes, of each one's distance
to its nearest, as in the published program. Prototypes of all classes go down, also of those that
no client has sent any of; the published program does the same.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from common.methods.fedtgp import Down, Up
from common.models.seeded import seeded
from common.models.state import load_state, state_of
from common.seeds import seed_for
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import AnyOf, Expected
from server_app.aggregation.replies import EMPTY
from server_app.families.fit import descend, rows_of
from server_app.families.own_models import Equally
from server_app.method import MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Learning towards prototypes that the server trains."""

    width: int = Field(512, ge=1, le=4096, description="Features K of every own model.")
    pull: float = Field(
        10.0, ge=0, le=1000, alias="lambda", description="Weight of the distance to prototypes."
    )
    margin: float = Field(100.0, ge=0, description="Largest margin tau between classes.")
    server_lr: float = Field(0.01, gt=0, le=10, description="Server: learning rate.")
    server_epochs: int = Field(100, ge=1, le=10_000, description="Server: passes a round.")
    server_batch: int = Field(10, ge=1, description="Server: prototypes a step.")
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)


class Server(Equally):
    """SGD on the loss above; ``generator`` is what survives a round."""

    down, up, collects = Down, Up, frozenset({"prototypes"})
    prototypes: Saved[Tensors]
    generator: Saved[Tensors]
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.prototypes = EMPTY
        self.generator = state_of(seeded(self._build, seed_for(setup.seed, "prototypes")))

    def _build(self) -> nn.Sequential:
        width = self.settings.width
        return nn.Sequential(
            nn.Embedding(self.task.classes, width),
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width),
        )  # fmt: skip

    def expects(self, client: int) -> Expected:
        """Prototypes of some classes."""
        return {"prototypes": AnyOf(self.of_classes(self.settings.width))}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Train the prototypes on those that came."""
        settings, every = self.settings, torch.arange(self.task.classes)
        rows, labels = rows_of(replies.each("prototypes"))
        delta = margin(rows, labels, settings.margin)
        net = self._build()
        load_state(net, self.generator)
        loss = descend(
            net, lambda some: apart(rows[some], labels[some], net(every), delta), len(rows),
            rate=settings.server_lr, size=settings.server_batch, epochs=settings.server_epochs,
            seed=seed_for(self.setup.seed, "server", round),
        )  # fmt: skip
        self.generator = state_of(net)
        with torch.no_grad():
            trained = net(every).numpy()
        self.prototypes = Tensors.pack({str(c): row for c, row in enumerate(trained)})
        return {"margin": delta, "server_loss": loss}


def margin(rows: Tensor, labels: Tensor, most: float) -> float:
    """delta; ``most`` where there is one class alone."""
    means = torch.stack([rows[labels == c].mean(0) for c in labels.unique()])
    between = torch.cdist(means, means).fill_diagonal_(torch.inf)
    return min(float(between.amin(1).max()), most)


def apart(rows: Tensor, labels: Tensor, prototypes: Tensor, delta: float) -> Tensor:
    """The loss above, averaged over the rows."""
    away = torch.cdist(rows, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
    return F.cross_entropy(-away - delta * F.one_hot(labels, len(prototypes)), labels)
