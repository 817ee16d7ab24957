"""Ditto (arXiv 2012.04221): what crosses the wire. The personal model v_i stays."""

from dataclasses import dataclass

from common.contract import Positive, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # w^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    mu: float  # lambda of the paper: weight of mu / 2 ||v_i - w^t||^2
    own_epochs: int  # passes over the images for v_i
    sgd: LocalSgd  # of both models; its epochs are those of w


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is that of w in training."""

    change: Tensors  # w_i - w^t, shape (d,)
    buffers: Tensors  # after training
    own_loss: Positive  # of v_i in training, without the proximal term, nats
