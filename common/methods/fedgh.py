"""FedGH (Yi et al., ACM MM 2023): what crosses the wire."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of an own model that is new."""

    head: Tensors  # linear layer K -> classes
    width: int  # K
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is its cross-entropy in training."""

    prototypes: Tensors  # of its own classes, by label, shape (K,) each
