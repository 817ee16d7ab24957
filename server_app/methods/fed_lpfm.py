"""Fed-LPFM, the server's half (arXiv 2311.08479): average the proxies by data size.

Teachers are the devices' business. A reply without one is plain training and counts like any
other; the record says how many there were. BatchNorm is treated as everything else that a proxy
holds: its weights and its running statistics are averaged by data size, the server keeps the
averages and sends them with the model, and the served proxy uses them.

The paper trains 600 epochs with SGD of rate 0.01, weight decay 5e-4 and a tenth of the rate from
epoch 200 on. lambda, temperature, momentum and the length of a round are not in it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.errors import SettingsError
from common.methods.fed_lpfm import REASONS, Down, Up
from server_app.averaging import Averaging
from server_app.method import MethodSettings, Setup
from server_app.rejection import Rejected
from server_app.seeds import seed_for


class Settings(MethodSettings):
    """Distillation on the devices."""

    lambda_: float = Field(
        0.5, ge=0, le=1, alias="lambda",
        description="Weight of distillation; cross-entropy has 1 - lambda.",
    )  # fmt: skip
    temperature: float = Field(2.0, gt=0, le=100, description="Softens both models' answers.")
    loss: Literal["kl", "mse", "features", "decoupled"] = Field(
        "kl", description="Distillation loss; kl is the published one."
    )
    beta: float = Field(8.0, ge=0, le=1000, description="loss='decoupled': of the other classes.")
    lr: float = Field(0.01, gt=0, le=10, description="Local learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of local SGD.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Of local SGD.")
    decay_epoch: int = Field(
        200, ge=0, description="Local epochs, over all rounds, before the rate falls; 0: never."
    )
    decay: float = Field(0.1, gt=0, le=1, description="Factor by which it falls.")
    epochs: int = Field(1, ge=1, le=1000, description="Local passes a round.")
    batch_size: int = Field(32, ge=0, description="Images a step; 0 takes all.")
    augmentation: Literal["none", "crop", "crop-flip"] = Field(
        "none", description="Of the proxy's images; teachers see them as they are."
    )


class Server(Averaging):
    """theta <- sum_i n_i theta_i / sum_i n_i."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        """Start from the initial model.

        Raises
        ------
        SettingsError: such batches cannot train this model.
        """
        super().__init__(setup)
        if settings.batch_size == 1 and setup.buffers:
            raise SettingsError(
                "fed_lpfm.batch-size=1: the model has BatchNorm, which cannot be trained on a "
                "single image; take at least 2, or a model without it (cnn-tiny, resnet8x4-gn)"
            )
        self._settings = settings
        self._seed = setup.seed

    def broadcast(self, round: int, node: int) -> Down:
        """The global proxy and how to train it; the rate is that of the round's first epoch."""
        s = self._settings
        decayed = s.decay_epoch and (round - 1) * s.epochs >= s.decay_epoch
        return Down(
            round=round,
            model=self.model,
            buffers=self.buffers,
            distillation=s.lambda_,
            temperature=s.temperature,
            loss=s.loss,
            beta=s.beta,
            lr=s.lr * (s.decay if decayed else 1.0),
            momentum=s.momentum,
            weight_decay=s.weight_decay,
            epochs=s.epochs,
            batch_size=s.batch_size,
            augmentation=s.augmentation,
            seed=seed_for(self._seed, round, node),
        )

    def offer(self, node: int, up: Up) -> dict[str, float]:
        """Sizes of the change and of the buffers.

        Raises
        ------
        Rejected: it does not say why there was no teacher, or says so although there was one.
        """
        if up.without not in (("",) if up.teachers else REASONS):
            raise Rejected("without", f"is {up.without[:80]!r} with {up.teachers} teachers")
        return super().offer(node, up)

    def absorb(self, node: int, up: Up) -> None:
        """Add one client's change, weighted by its number of images."""
        self.add(up.change, up.examples, up.loss, up.buffers)
        if up.teachers > 0:
            self._distilled += 1
            self._teachers += up.teachers
            self._left_out += up.left_out
            self._distillation_loss += up.distillation_loss
        elif up.without == "no room":
            self._no_room += 1
        elif up.without == "teacher failed":
            self._failed += 1
        else:
            self._no_teacher += 1

    def step(self, round: int) -> dict[str, float]:
        """Average; the metrics count devices with and without a teacher."""
        counts = {
            "distilled": float(self._distilled),
            "without_teacher": float(self._no_teacher),
            "without_room_for_teacher": float(self._no_room),
            "teacher_failed": float(self._failed),
        }
        if self._distilled:
            counts["teachers"] = self._teachers / self._distilled
            counts["teachers_left_out"] = self._left_out / self._distilled
            counts["distillation_loss"] = self._distillation_loss / self._distilled
        return super().step(round) | counts

    def discard(self) -> None:
        """Forget the replies of this round."""
        super().discard()
        self._distilled = self._teachers = self._left_out = 0
        self._no_teacher = self._no_room = self._failed = 0
        self._distillation_loss = 0.0
