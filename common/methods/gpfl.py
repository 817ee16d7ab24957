"""GPFL (arXiv 2308.10279): what crosses the wire. The head stays."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # body, embeddings of classes, valve; the head as a client without one begins
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    own: list[str]  # names of the head's parameters
    magnitude: float  # lambda, weight of the distance to the embedding of the class
    decay: float  # mu, weight decay of embeddings and valve
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is all that is minimised."""

    change: Tensors  # of body, embeddings and valve
    buffers: Tensors  # after training
