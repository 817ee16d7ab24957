"""FedKD, the server's half (Wu et al., Nature Communications 2022): updates cut to low rank.

    theta <- theta + cut(mean_i cut(theta_i - theta))

The mean is plain, as published. What is cut are updates, as in the paper, not the mentee itself;
the share of the squared singular values that is kept rises from ``energy-start`` to ``energy-end``
in the first ``rise`` rounds. A client that took part in the round of the last step has the mentee
before it and gets the update; any other gets the whole.
"""

from typing import Any

from pydantic import Field

from common import low_rank
from common.methods.fedkd import Down, Up
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import Exactly, Expected, LowRank
from server_app.aggregation.replies import EMPTY
from server_app.method import Method, MethodSettings, Replies, Saved, Setup


class Settings(MethodSettings):
    """Mutual distillation of an own mentor and a shared mentee."""

    energy_start: float = Field(0.95, gt=0, le=1, description="Squared singular values kept.")
    energy_end: float = Field(0.98, gt=0, le=1, description="The same, later.")
    rise: int = Field(100, ge=1, description="Rounds from the one to the other.")
    clip: float = Field(10.0, gt=0, description="Largest norm of a gradient.")
    sgd: LocalSgd = LocalSgd(lr=0.01, batch_size=10)


class Server(Method):
    """The sum of the updates as they were sent down is the mentee."""

    down, up, personal = Down, Up, True
    model: Saved[Tensors]
    change: Saved[Tensors]  # of the last step, cut
    version: Saved[int]
    base: Saved[int]  # version before the last step
    has: Saved[dict[int, int]]  # client -> version that it was sent, of replies that counted
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.change, self.version, self.base, self.has = EMPTY, 0, 0, {}

    def energy(self, round: int) -> float:
        """T(t)."""
        settings = self.settings
        share = min(1.0, round / settings.rise)
        return settings.energy_start + share * (settings.energy_end - settings.energy_start)

    def broadcast(self, round: int, client: int, **more: Any) -> Any:
        """The update to those who can use it, the whole mentee to others."""
        short = self.version > 0 and self.has.get(client) == self.base
        more |= {"model": None} if short else {"change": None}
        return super().broadcast(round, client, energy=self.energy(round), **more)

    def expects(self, client: int) -> Expected:
        """A change of the mentee, whole or in factors, and its statistics."""
        return {"change": LowRank(self.model.specs), "buffers": Exactly(self.buffers.specs)}

    def factor(self, client: int, up: Up) -> float:
        """All clients count the same."""
        return 1.0

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average, cut, add."""
        still = self.model.with_vector(0 * self.model.vector)
        mean = replies.averaged("change", still)
        self.change = low_rank.cut(mean, self.energy(round))
        self.model = low_rank.moved(self.model, self.change)
        self.buffers = replies.averaged("buffers", self.buffers)
        self.has = dict.fromkeys(replies.ups, self.version)
        self.version, self.base = round, self.version
        return {"own_loss": replies.mean("own_loss"), "sent": len(self.change) / len(self.model)}

    def go_back(self, model: Tensors | None, buffers: Tensors, blamed: bool) -> bool:
        """No client has the mentee that the next update starts from."""
        self.has = {}
        return super().go_back(model, buffers, blamed)
