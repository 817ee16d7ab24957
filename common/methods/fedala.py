"""FedALA (arXiv 2212.01197): what crosses the wire. The local model and its weights stay."""

from dataclasses import dataclass

from common.contract import Positive, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # Theta^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    top: list[str]  # names of the parameters that are mixed, the p layers at the top
    share: float  # of the local images, that weights are learned on; s
    weight_lr: float  # of the weights, eta
    weight_epochs: int  # passes for the weights a round
    first_epochs: int  # passes at most, the first time
    settled: float  # the first time ends when the losses of ten batches spread less
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result."""

    change: Tensors  # Theta_i - Theta^t, shape (d,)
    buffers: Tensors  # after training
    own_share: Positive  # mean of 1 - W, how much of the old local model is in the mixture
