"""Fed-LPFM, the server's half (arXiv 2311.08479): average the proxies by data size.

Teachers are the devices' business. A reply without one is plain training and counts like any
other; the record says how many there were. BatchNorm is treated as everything else that a proxy
holds: its weights and its running statistics are averaged by data size, the server keeps the
averages and sends them with the model, and the served proxy uses them.

The paper trains 600 epochs with SGD of rate 0.01, weight decay 5e-4 and a tenth of the rate from
epoch 200 on. lambda, temperature, momentum and the length of a round are not in it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import Field

from common.contract import Crop
from common.errors import SettingsError
from common.methods.fed_lpfm import Down, Loss, Up
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies, Setup
from server_app.validation.errors import Rejected


class Settings(MethodSettings):
    """Distillation on the devices."""

    lambda_: float = Field(
        0.5, ge=0, le=1, alias="lambda",
        description="Weight of distillation; cross-entropy has 1 - lambda.",
    )  # fmt: skip
    temperature: float = Field(2.0, gt=0, le=100, description="Softens both models' answers.")
    loss: Loss = Field("kl", description="Distillation loss; kl is the published one.")
    beta: float = Field(8.0, ge=0, le=1000, description="loss='decoupled': of the other classes.")
    decay_epoch: int = Field(
        200, ge=0, description="Local epochs, over all rounds, before the rate falls; 0: never."
    )
    decay: float = Field(0.1, gt=0, le=1, description="Factor by which it falls.")
    augmentation: Crop = Field(
        "none", description="Of the proxy's images; teachers see them as they are."
    )
    sgd: LocalSgd = LocalSgd(lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=5, batch_size=32)


class Server(Averaging):
    """theta <- sum_i n_i theta_i / sum_i n_i."""

    down, up = Down, Up
    settings: Settings

    def __init__(self, settings: Settings, setup: Setup) -> None:
        """Start from the initial model.

        Raises
        ------
        SettingsError: such batches cannot train this model.
        """
        super().__init__(settings, setup)
        if settings.sgd.batch_size == 1 and len(setup.buffers):
            raise SettingsError(
                "fed_lpfm.sgd.batch-size=1: the model has BatchNorm, which cannot be trained on a "
                "single image; take at least 2, or a model without it (cnn-tiny, resnet8x4-gn)"
            )

    def broadcast(self, round: int, client: int, **more: Any) -> Down:
        """The global proxy and how to train it; the rate is that of the round's first epoch."""
        s = self.settings
        decayed = s.decay_epoch and (round - 1) * s.sgd.epochs >= s.decay_epoch
        sgd = s.sgd.model_copy(update={"lr": s.sgd.lr * s.decay}) if decayed else s.sgd
        return super().broadcast(round, client, distillation=s.lambda_, sgd=sgd)

    def check(self, client: int, up: Up, sizes: dict[str, float]) -> dict[str, float]:
        """Sizes of the change and of the buffers.

        Raises
        ------
        Rejected: it does not say why there was no teacher, or says so although there was one.
        """
        if bool(up.without) == bool(up.teachers):
            raise Rejected("without", f"is {up.without!r} with {up.teachers} teachers")
        return super().check(client, up, sizes)

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Average; the metrics count devices with and without a teacher."""
        taught = [up for up in replies.ups.values() if up.teachers > 0]
        why = Counter(up.without for up in replies.ups.values() if not up.teachers)
        counts = {
            "distilled": float(len(taught)),
            "without_teacher": float(why["no teacher"]),
            "without_room_for_teacher": float(why["no room"]),
            "teacher_failed": float(why["teacher failed"]),
        }
        if taught:
            counts["teachers"] = sum(up.teachers for up in taught) / len(taught)
            counts["teachers_left_out"] = sum(up.left_out for up in taught) / len(taught)
            counts["distillation_loss"] = sum(u.distillation_loss for u in taught) / len(taught)
        return super().step(round, replies) | counts
