"""pFedMe, the server's half (Dinh et al., arXiv 2006.08848): w <- (1 - beta) w + beta mean(w_i).

PFLlib's defaults have beta = 0, with which w never moves. Here beta is 1 and lambda 15, as in the
paper; clients that are not asked do not train, where in the paper all do. Weight decay of 0.001,
which PFLlib adds to the inner steps, is ``sgd.weight-decay``.
"""

from pydantic import Field

from common.methods.pfedme import Down, Up
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies


class Settings(MethodSettings):
    """Two loops on each client."""

    beta: float = Field(1.0, ge=0, le=10, description="Of the server: (1 - beta) w + beta mean.")
    pull: float = Field(
        15.0, gt=0, le=1000, alias="lambda", description="Of lambda/2 ||theta_i - w||^2."
    )
    own_steps: int = Field(5, ge=1, le=1000, description="Steps K on theta_i a mini-batch.")
    own_lr: float = Field(0.01, gt=0, le=10, description="Rate of these steps.")
    sgd: LocalSgd = LocalSgd(lr=0.005, batch_size=10)


class Server(Averaging):
    """w <- w + beta sum_i n_i (w_i - w) / sum_i n_i."""

    down, up = Down, Up
    personal = True

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Go ``beta`` of the way; statistics are the clients' mean."""
        before = self.model.vector
        metrics, beta = super().step(round, replies), self.settings.beta
        if beta != 1:
            self.model = self.model.with_vector(before + beta * (self.model.vector - before))
        return {"step_norm": beta * metrics["step_norm"]}
