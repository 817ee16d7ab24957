"""LG-FedAvg (Liang et al., 2020): what crosses the wire. The body of the own model stays."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of an own model that is new."""

    head: Tensors  # linear layer K -> classes; empty shares nothing
    width: int  # K
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; ``examples`` are the weight in the average."""

    change: Tensors  # of the head in training
