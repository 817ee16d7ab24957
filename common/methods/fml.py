"""FML, Federated Mutual Learning (arXiv 2006.16765): what crosses the wire.

The shared model travels. Each device's own model, which may be of any architecture, stays.
"""

from dataclasses import dataclass

from common.tensors import Tensors


@dataclass(frozen=True)
class Down:
    """One round's work."""

    round: int  # t, from 1
    model: Tensors  # theta^t of the shared model, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    alpha: float  # of the own model: weight of cross-entropy; mutual learning has 1 - alpha
    beta: float  # of the shared model, likewise
    lr: float  # learning rate of local SGD, for both models
    momentum: float  # of local SGD
    epochs: int  # passes over the local data
    batch_size: int  # images a step; 0 takes all
    seed: int  # of the mini-batches, and of an own model that is new


@dataclass(frozen=True)
class Up:
    """One client's result."""

    round: int  # t, as in Down
    change: Tensors  # theta_i - theta^t of the shared model, shape (d,)
    buffers: Tensors  # after training
    examples: int  # images trained on
    loss: float  # mean cross-entropy of the shared model in training, nats
    own_loss: float  # the same of the own model
