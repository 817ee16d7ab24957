"""MOON (arXiv 2103.16257): what crosses the wire. The previous local model stays."""

from dataclasses import dataclass

from common.contract import Positive, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # w^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    mu: float  # weight of the contrastive loss
    temperature: float  # tau
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is the cross-entropy."""

    change: Tensors  # w_i - w^t, shape (d,)
    buffers: Tensors  # after training
    contrastive_loss: Positive  # mean in training, nats; log 2 for a client's first time
