"""RaFFM (arXiv 2310.00247), and width by prefix: what crosses the wire.

A client is sent the slice of the model that it trains, and sends that slice's change; nothing of
the rest travels.
"""

from dataclasses import dataclass
from typing import Annotated

from common.contract import Between, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors

WIDTHS = "1,0.5,0.25"
"""That devices may have, if nothing else is set."""

BATCH = 64
"""Images a step, likewise; as published."""

Width = Annotated[float, Between(1e-6, 1)]


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # the client's slice of theta^t
    buffers: Tensors  # of BatchNorm's statistics and the like; may be empty
    width: Width  # of the slice, as a share of the network
    inner: list[Width]  # ordered dropout draws one of them for each step; empty: the whole slice
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; ``examples`` are the weight in each entry's average."""

    change: Tensors  # of the slice
    buffers: Tensors  # of the slice, after training
