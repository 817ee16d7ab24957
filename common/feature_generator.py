"""A generator of features: noise and a class in, features of the common width out (FedGen)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureGenerator(nn.Module):
    """Linear, BatchNorm, ReLU, Linear."""

    def __init__(self, noise: int, classes: int, hidden: int, width: int) -> None:
        super().__init__()
        self.noise, self.classes = noise, classes
        self.layers = nn.Sequential(
            nn.Linear(noise + classes, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, width),
        )

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Features (n, width) of normal noise (n, noise) and labels (n,)."""
        chosen = F.one_hot(labels, self.classes).to(noise.dtype)
        features: Tensor = self.layers(torch.cat([noise, chosen], 1))
        return features
