"""FedRep (arXiv 2102.07078): what crosses the wire. The head stays."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # representation phi^t; the head as a client without one begins; shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like, likewise; may be empty
    own: list[str]  # names of the head's parameters and buffers
    head_epochs: int  # passes over the images for the head, phi^t fixed
    sgd: LocalSgd  # of both; its epochs are those of phi, the head fixed


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is that in the training of phi."""

    change: Tensors  # phi_i - phi^t
    buffers: Tensors  # after training
