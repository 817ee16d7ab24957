"""AugAvg: what crosses the wire."""

from dataclasses import dataclass
from typing import Annotated

from common.contract import Between, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors

Share = Annotated[float, Between(0.0, 1.0)]


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # theta^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    rival: Tensors  # in the first round what the server made of theta by itself; else empty
    alpha: float  # rate of the one step of adaptation by which the two are compared
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; ``examples`` are the weight in the average."""

    change: Tensors  # theta_i - theta^t, shape (d,)
    buffers: Tensors  # after training
    right: Share  # of the query images, by theta^t after adaptation; 0 without a rival
    right_rival: Share  # the same by the rival
