"""FedKTL (Zhang et al., CVPR 2024): what crosses the wire.

One generated image and its latent a class come down; the generator stays at the server.
"""

from dataclasses import dataclass
from typing import Annotated

from common.contract import Between, Count, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of an own model that is new."""

    etf: Tensors  # "vectors" of the classes, columns of shape (classes, classes)
    pairs: Tensors  # "images" (classes, c, h, w) and "latents" (classes, l); empty before round 2
    start: Count  # seed of the projector, the same for all
    latent: Annotated[int, Between(1, 65_536)]  # l
    width: int  # K
    mu: float  # weight of the transfer
    scale: float  # s
    margin: float  # m, radians
    clip: float  # largest norm of a gradient
    generated_batch: int  # pairs a step
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is its cross-entropy in training, with the margin."""

    prototypes: Tensors  # of its own classes, by label, unit vectors of shape (classes,)
