"""FedProx (Li et al., 2020): what crosses the wire."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # theta^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    mu: float  # weight of the proximal term mu / 2 ||theta - theta^t||^2
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is without the proximal term."""

    change: Tensors  # theta_i - theta^t, shape (d,)
    buffers: Tensors  # after training
