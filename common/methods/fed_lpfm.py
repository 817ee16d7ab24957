"""Fed-LPFM (arXiv 2311.08479): what crosses the wire.

The proxy model travels, and nothing else that a teacher has touched: a teacher's weights, logits
and embeddings have no field here.
"""

from dataclasses import dataclass

from common.tensors import Tensors

REASONS = ("no teacher", "no room", "teacher failed")
"""Why a device learned from no teacher."""


@dataclass(frozen=True)
class Down:
    """One round's work."""

    round: int  # t, from 1
    model: Tensors  # theta^t of the proxy, shape (d,)
    buffers: Tensors  # BatchNorm statistics; may be empty
    distillation: float  # lambda, weight of the distillation loss; cross-entropy has 1 - lambda
    temperature: float  # tau
    loss: str  # "kl", "mse", "features" or "decoupled"
    beta: float  # weight of the other classes in "decoupled"
    lr: float  # learning rate of local SGD in this round
    momentum: float  # of local SGD
    weight_decay: float  # of local SGD
    epochs: int  # passes over the local data
    batch_size: int  # images a step; 0 takes all
    augmentation: str  # "none", "crop" or "crop-flip"
    seed: int  # of the mini-batches and of the augmentation


@dataclass(frozen=True)
class Up:
    """One client's result."""

    round: int  # t, as in Down
    change: Tensors  # theta_i - theta^t, shape (d,)
    buffers: Tensors  # after training
    examples: int  # images trained on; the weight in the average
    loss: float  # mean cross-entropy in training, nats
    distillation_loss: float  # mean distillation loss in training; 0 without a teacher
    teachers: int  # number of teachers learned from
    left_out: int  # number of further teachers that had no room or failed, if it has several
    without: str  # why there was none, one of ``REASONS``; "" if there was
