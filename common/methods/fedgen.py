"""FedGen (Zhu et al., ICML 2021): what crosses the wire.

Devices tell how many images of each class they have: the method needs it to weigh their heads.
"""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of an own model that is new."""

    head: Tensors  # linear layer K -> classes
    generator: Tensors  # of features; empty before it was trained
    shares: list[float]  # of all images, each class has; empty before anybody has told
    width: int  # K
    noise: int  # numbers that the generator takes
    hidden: int  # width of its hidden layer
    pull: float  # weight of generated features
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is its cross-entropy on its own images in training."""

    change: Tensors  # of the head in training
    counts: Tensors  # "images" of each class, shape (classes,), int64
