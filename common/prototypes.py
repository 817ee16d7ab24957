"""What crosses the wire where clients learn towards prototypes of classes."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of an own model that is new."""

    prototypes: Tensors  # of the classes that have one, by label, shape (K,) each
    width: int  # K
    pull: float  # lambda
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is its cross-entropy in training."""

    prototypes: Tensors  # of its own classes, by label, shape (K,) each
