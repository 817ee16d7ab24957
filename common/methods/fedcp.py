"""FedCP (arXiv 2307.01217): what crosses the wire. The personal head stays."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # body, global head, policy; the personal head as a client without one begins
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    own: list[str]  # names of the personal head's parameters
    pull: float  # lambda, weight of the distance between personal and global features
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is all that is minimised."""

    change: Tensors  # of body, policy and global head; that is half-way to the personal one
    buffers: Tensors  # after training
