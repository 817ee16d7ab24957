"""Fed-LPFM (arXiv 2311.08479): what crosses the wire.

The proxy model travels, and nothing else that a teacher has touched: a teacher's weights, logits
and embeddings have no field here.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.contract import CAP, Between, Crop, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors

Loss = Literal["kl", "mse", "features", "decoupled"]
Without = Literal["", "no teacher", "no room", "teacher failed"]
Few = Annotated[int, Between(0, 1000)]


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of the augmentation."""

    model: Tensors  # theta^t of the proxy, shape (d,)
    buffers: Tensors  # BatchNorm statistics; may be empty
    distillation: float  # lambda, weight of the distillation loss; cross-entropy has 1 - lambda
    temperature: float  # tau
    loss: Loss
    beta: float  # weight of the other classes in "decoupled"
    sgd: LocalSgd
    augmentation: Crop


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is the mean cross-entropy in training."""

    change: Tensors  # theta_i - theta^t, shape (d,)
    buffers: Tensors  # after training
    distillation_loss: Annotated[float, Between(-1e-3, CAP)]  # mean in training; 0 without teacher
    teachers: Few  # number of teachers learned from
    left_out: Few  # number of further teachers that had no room or failed, if it has several
    without: Without  # why there was none; empty if there was
