"""FedGen, the server's half (Zhu et al., ICML 2021): a generator that suits all heads at once.

    min_G  E_{y, eps} CE(sum_i w_i^y h_i(G(eps, y)), y) + diversity exp(-E |eps - eps'| |z - z'|)

w_i^y is client i's share of the images of class y, y is drawn from the shares of the classes, eps
is normal, z are features G(eps, y) of a batch. Then the heads are averaged by data size. In the
programs that share heads alone noise is uniform and there is no diversity term; the paper has both
as here. Adam begins anew in each round.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from common.feature_generator import FeatureGenerator
from common.methods.fedgen import Down, Up
from common.models.seeded import seeded
from common.models.state import load_state, state_of
from common.seeds import seed_for
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import Exactly, Expected, Vector
from server_app.aggregation.replies import EMPTY
from server_app.families.fit import descend
from server_app.families.own_models import OwnModels
from server_app.method import MethodSettings, Replies, Saved, Setup
from server_app.validation.errors import Rejected


class Settings(MethodSettings):
    """Own bodies, one head, and a generator of features for it."""

    width: int = Field(512, ge=1, le=4096, description="Features K of every own model.")
    noise: int = Field(32, ge=1, le=4096, description="Numbers that the generator takes.")
    hidden: int = Field(512, ge=1, le=8192, description="Width of its hidden layer.")
    pull: float = Field(
        1.0, ge=0, le=1000, alias="lambda", description="Weight of generated features."
    )
    diversity: float = Field(1.0, ge=0, le=1000, description="Weight of the diversity term.")
    server_lr: float = Field(0.005, gt=0, le=1, description="Server: learning rate of Adam.")
    server_steps: int = Field(100, ge=1, le=10_000, description="Server: steps a round.")
    server_batch: int = Field(10, ge=2, description="Server: features a step.")
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)


class Server(OwnModels):
    """The loss above, by Adam."""

    down, up, collects = Down, Up, frozenset({"change", "counts"})
    head: Saved[Tensors]
    generator: Saved[Tensors]
    shares: Saved[list[float]]
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        layer = seeded(
            lambda: nn.Linear(settings.width, self.task.classes), seed_for(setup.seed, "head")
        )
        self.head, self.generator, self.shares = state_of(layer), EMPTY, []

    def expects(self, client: int) -> Expected:
        """A change of the head, and numbers of images."""
        counts = ("images", (self.task.classes,), "int64")
        return {"change": Vector(self.head.specs), "counts": Exactly((counts,))}

    def check(self, client: int, up: Up, sizes: dict[str, float]) -> dict[str, float]:
        """Refuse numbers of images that cannot be; they are no size to compare."""
        counts = up.counts.unpack()["images"]
        if not 0 <= counts.min() <= counts.max() <= 10**7 or not counts.any():
            raise Rejected("counts", f"are {counts.min()} to {counts.max()}")
        return {"change": sizes["change"]}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Train the generator on the heads, then average these."""
        weights = torch.tensor([replies.weight(client) for client in replies.each("counts")])
        heads = torch.stack(
            [torch.tensor(self.head.vector + c.vector) for c in replies.each("change").values()]
        )
        counts = torch.stack(
            [torch.tensor(c.unpack()["images"]).float() for c in replies.each("counts").values()]
        )
        # A client has as much say as it has images, whatever it tells of their classes.
        counts *= (weights / counts.sum(1)).unsqueeze(1)
        net = self._train(round, heads, counts)
        self.generator, self.shares = state_of(net[0]), (counts.sum(0) / counts.sum()).tolist()
        self.head = self.head.with_vector((weights @ heads / weights.sum()).numpy())
        return {"server_loss": net[1]}

    def _train(self, round: int, heads: Tensor, counts: Tensor) -> tuple[FeatureGenerator, float]:
        settings, shares = self.settings, counts.sum(0)
        seed = seed_for(self.setup.seed, "generator", round)
        net = seeded(
            lambda: FeatureGenerator(
                settings.noise, self.task.classes, settings.hidden, settings.width
            ),
            seed,
        )
        if self.generator.specs:
            load_state(net, self.generator)
        dice = torch.Generator().manual_seed(seed)

        def loss(some: Tensor) -> Tensor:
            labels = torch.multinomial(shares, len(some), replacement=True, generator=dice)
            noise = torch.randn(len(some), settings.noise, generator=dice)
            made = net(noise, labels)
            hard = F.cross_entropy(answer(made, labels, heads, counts), labels)
            return hard + settings.diversity * alike(noise, made)

        value = descend(
            net, loss, settings.server_steps * settings.server_batch, rate=settings.server_lr,
            size=settings.server_batch, epochs=1, seed=seed, by=torch.optim.Adam,
        )  # fmt: skip
        return net, value


def answer(made: Tensor, labels: Tensor, heads: Tensor, counts: Tensor) -> Tensor:
    """sum_i w_i^y h_i(z), shape (b, classes).

    Parameters
    ----------
    made: features z, shape (b, K), of classes ``labels``, shape (b,).
    heads: weights and then biases of each client, shape (m, classes * K + classes).
    counts: images of each client and class, shape (m, classes).
    """
    width, classes = made.shape[1], counts.shape[1]
    weight, bias = heads.split([width * classes, classes], 1)
    logits = torch.einsum("bk,mck->mbc", made, weight.view(-1, classes, width))
    each = (counts / counts.sum(0).clamp(min=1e-12))[:, labels].unsqueeze(2)
    return (each * (logits + bias.unsqueeze(1))).sum(0)


def alike(noise: Tensor, made: Tensor) -> Tensor:
    """exp(-E |eps - eps'| |z - z'|): 1 where different noise gives the same features."""
    apart = (made.unsqueeze(0) - made.unsqueeze(1)).abs().mean(2)
    return (-(torch.cdist(noise, noise) * apart).mean()).exp()
