"""FedKD (Wu et al., Nature Communications 2022): what crosses the wire.

The mentee travels, as updates cut to low rank (``common/low_rank.py``); a client that lacks what an
update starts from gets the whole mentee. The mentor, of any architecture, stays.
"""

from dataclasses import dataclass
from typing import Annotated

from common.contract import Between, Count, Positive, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of a mentor that is new."""

    model: Tensors | None  # the mentee, shape (d,), where the client does not have it
    change: Tensors | None  # else from its version ``base`` to this one, cut
    version: Count  # of the mentee: the round whose step made it; 0 is the initial one
    base: Count
    buffers: Tensors  # of the mentee
    energy: Annotated[float, Between(0, 1)]  # share of squared singular values that goes up
    clip: float  # largest norm of a gradient
    sgd: LocalSgd  # of both models


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is the mentee's cross-entropy in training."""

    change: Tensors  # of the mentee in training, cut
    buffers: Tensors  # after training
    own_loss: Positive  # mean cross-entropy of the mentor in training, nats
