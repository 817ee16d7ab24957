"""Settings of the knowledge transfer: the terms of R_h, their weights, and what they need."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config import Settings
from common.contract import Crop


class KnowledgeSettings(Settings):
    """R_h = sum of weight x term; a weight of 0 leaves a term out.

    The weights are the published ones: cross-entropy 1, KL 0, CRD 0.8. Where D_s has no labels, the
    cross-entropy is left out; a KL weight of 1 serves instead. Higher temperatures leave a student
    whose logits are too soft to adapt in one step.
    """

    cross_entropy: float = Field(
        1.0, ge=0, le=1e6, description="Weight of the cross-entropy on D_s; needs labels."
    )
    kl: float = Field(
        0.0, ge=0, le=1e6, description="Weight of the divergence from the private model's logits."
    )
    kl_temperature: float = Field(
        1.0, gt=0, le=1000, description="Temperature that softens both models' logits."
    )
    crd: float = Field(
        0.8, ge=0, le=1e6, description="Weight of the contrastive term on last hidden features."
    )
    tasks: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight of the divergence after adaptation, on tasks drawn from D_s.",
    )
    squared_distance: float = Field(
        0.0, ge=0, le=1e6, description="Weight of ||theta - theta_c||^2 to given parameters."
    )
    batch_size: int = Field(64, ge=2, le=1_000_000, description="Images of D_s a gradient.")
    labelled: bool = Field(
        True, description="Whether D_s has labels; without, its folder needs no classes."
    )
    augment: Crop = Field(
        "none",
        description="Random views for the client model; the private model sees the original.",
    )
    negatives: int = Field(
        1024, ge=1, le=1_000_000, description="CRD: negatives K an image, drawn with replacement."
    )
    crd_temperature: float = Field(0.07, ge=0.02, le=100, description="CRD: temperature tau.")
    memory_momentum: float = Field(
        0.5, ge=0, lt=1, description="CRD: share of the old entry when the memory is updated."
    )
    memory_start: Literal["features", "random"] = Field(
        "features",
        description="CRD: first memories: projections of all of D_s, or random as published.",
    )
    feature_dim: int = Field(128, ge=2, le=65_536, description="CRD: width of the projections.")
    head_learning_rate: float = Field(
        0.002, ge=0, le=100, description="CRD: step of the projection heads' SGD."
    )
    head_momentum: float = Field(0.9, ge=0, lt=1, description="CRD: momentum of that SGD.")
    head_weight_decay: float = Field(5e-4, ge=0, le=1, description="CRD: weight decay of that SGD.")
