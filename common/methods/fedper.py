"""FedPer (arXiv 1912.00818): what crosses the wire. Personal layers stay."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # base layers W_B^t; personal ones as a client without them begins; shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like, likewise; may be empty
    own: list[str]  # names of the personal layers' parameters and buffers
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; ``examples`` are the weight in the average."""

    change: Tensors  # of the base layers
    buffers: Tensors  # of the base layers, after training
