"""Local SGD as settings and as a part of contracts: one class on both sides of the wire."""

from __future__ import annotations

from pydantic import Field

from common.config import Settings


class LocalSgd(Settings):
    """How a client trains; a method whose published settings are others has them in its own."""

    lr: float = Field(0.05, gt=0, le=10, description="Local learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Of local SGD, heavy-ball.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Of local SGD.")
    epochs: int = Field(1, ge=1, le=1000, description="Local passes a round.")
    batch_size: int = Field(0, ge=0, description="Images a step; 0 takes all.")
