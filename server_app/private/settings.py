"""Settings of the training of a private model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config import Settings
from common.contract import Crop


class PretrainSettings(Settings):
    """How a private model is trained on the server's own images."""

    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training images.")
    batch_size: int = Field(64, ge=2, le=1_000_000, description="Images a step.")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw",
        description="AdamW, or SGD with Nesterov momentum 0.9; both with a cosine schedule.",
    )
    learning_rate: float = Field(0.002, gt=0, le=100, description="Largest step of the schedule.")
    weight_decay: float = Field(0.01, ge=0, le=10, description="Weight decay of the optimizer.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share spread over all classes.")
    validation_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of each class that is held out to choose the best epoch.",
    )
    augment: Crop = Field("none", description="Random views of the training images.")
