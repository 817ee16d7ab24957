"""pFedMe (arXiv 2006.08848): what crosses the wire. The personal model theta_i stays."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # w^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    pull: float  # lambda, weight of lambda / 2 ||theta_i - w||^2
    own_steps: int  # K, gradient steps on theta_i a mini-batch
    own_lr: float  # rate of those steps
    sgd: LocalSgd  # mini-batches, and the rate eta of w; its momentum is that of theta_i


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is that of theta_i, without the quadratic term."""

    change: Tensors  # w_i - w^t, shape (d,)
    buffers: Tensors  # after training
