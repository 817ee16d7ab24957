"""Per-FedAvg (Fallah et al., 2020): what crosses the wire."""

from dataclasses import dataclass
from typing import Literal

from common.contract import Result, Work
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # w_k, shape (d,)
    alpha: float  # adaptation rate
    beta: float  # meta learning rate of the local steps
    steps: int  # tau, local meta-steps
    variant: Literal["first-order", "hessian-free"]
    delta: float  # finite-difference step of the Hessian-free variant
    batch_size: int  # images a gradient; 0 takes all


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is that on the query set after adaptation."""

    change: Tensors  # w_{k+1}^i - w_k, shape (d,)
