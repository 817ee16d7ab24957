"""What contracts are made of: bounds for numbers, and what every ``Down`` and ``Up`` begins with.

A contract is a frozen dataclass. A field is a number, a text, a list of one of them, a ``Literal``
where a text has few values, named ``Tensors``, or settings that nest, such as ``LocalSgd``, which
travel as ``sgd.lr``, ``sgd.epochs``, ... What does not fit its type or bounds is refused on
arrival, by both sides alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

CAP = 1e6
"""Too much for any loss, norm or curvature."""


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both possible."""

    low: float
    high: float


Positive = Annotated[float, Between(0.0, CAP)]
"""A mean loss, a norm, a curvature: not below zero, and not absurd."""

Count = Annotated[int, Between(0, 2**40)]
"""A number of things."""


Crop = Literal["none", "crop", "crop-flip"]
"""Random views of training images, made by ``common/data/crop.py``."""


@dataclass(frozen=True)
class Work:
    """What every method asks of a client: the beginning of a ``Down``."""

    round: int  # t, from 1
    seed: int  # of this client's random draws in this round


@dataclass(frozen=True)
class Result:
    """What every method gets back: the beginning of an ``Up``."""

    round: int  # t, as in Down
    examples: Annotated[int, Between(1, 10**7)]  # images trained on
    loss: Positive  # mean training loss, nats
