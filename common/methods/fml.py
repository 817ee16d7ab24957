"""FML, Federated Mutual Learning (arXiv 2006.16765): what crosses the wire.

The shared model travels. Each device's own model, which may be of any architecture, stays.
"""

from dataclasses import dataclass

from common.contract import Positive, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of an own model that is new."""

    model: Tensors  # theta^t of the shared model, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    alpha: float  # of the own model: weight of cross-entropy; mutual learning has 1 - alpha
    beta: float  # of the shared model, likewise
    sgd: LocalSgd  # of both models


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is the shared model's cross-entropy in training."""

    change: Tensors  # theta_i - theta^t of the shared model, shape (d,)
    buffers: Tensors  # after training
    own_loss: Positive  # mean cross-entropy of the own model in training, nats
