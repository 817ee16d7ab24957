"""The additive angular margin of ArcFace (Deng et al., 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def with_margin(cosine: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Cosines, shape (n, classes), of angles that are wider by ``margin`` for the own class."""
    own = cosine.gather(1, labels.unsqueeze(1))
    sine = (1 - own.square()).clamp(min=1e-12).sqrt()
    wider = own * math.cos(margin) - sine * math.sin(margin)
    wider = torch.where(own > -math.cos(margin), wider, own - margin * math.sin(margin))
    return cosine.scatter(1, labels.unsqueeze(1), wider)
