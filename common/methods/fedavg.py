"""FedAvg (McMahan et al., 2017): what crosses the wire."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # theta^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; ``examples`` are the weight in the average."""

    change: Tensors  # theta_i - theta^t, shape (d,)
    buffers: Tensors  # after training
