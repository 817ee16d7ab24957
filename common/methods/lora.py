"""LoRA with ranks by device (FedIT, FlexLoRA, raFLoRA): what crosses the wire.

A client is sent the first ranks of the factors, as many as it trains, and the head.
"""

from dataclasses import dataclass
from typing import Annotated

from common.contract import Between, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # A (r, in) and B (out, r) of each layer, and what else is trained
    rank: Annotated[int, Between(1, 1024)]  # r
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; ``examples`` are the weight in the average."""

    change: Tensors  # of what it was sent
