"""FedBN (arXiv 2102.07623): what crosses the wire. Normalisation layers stay."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # theta^t; normalisation layers as a client without them begins; shape (d,)
    buffers: Tensors  # likewise
    own: list[str]  # names of the normalisation layers' parameters and statistics
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; ``examples`` are the weight in the average."""

    change: Tensors  # of all other layers
    buffers: Tensors  # of all other layers
