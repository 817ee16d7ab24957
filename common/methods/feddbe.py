"""FedDBE (arXiv 2311.14975): what crosses the wire. The personal bias of the features stays."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # theta^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    consensus: Tensors  # mean features of all clients' images, shape (K,); empty before it is known
    kappa: float  # weight of the mean regularisation
    momentum: float  # mu, of the running mean of the features
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is all that is minimised."""

    change: Tensors  # theta_i - theta^t, shape (d,)
    buffers: Tensors  # after training
    features: Tensors | None  # mean over the client's images, shape (K,), until all have said once
