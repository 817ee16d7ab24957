"""Per-FedAvg (Fallah et al., 2020): what crosses the wire."""

from dataclasses import dataclass

from common.tensors import Tensors


@dataclass(frozen=True)
class Down:
    """One round's work."""

    round: int  # t, from 1
    model: Tensors  # w_k, shape (d,)
    alpha: float  # adaptation rate
    beta: float  # meta learning rate of the local steps
    steps: int  # tau, local meta-steps
    variant: str  # "first-order" or "hessian-free"
    delta: float  # finite-difference step of the Hessian-free variant
    batch_size: int  # images a gradient; 0 takes all
    seed: int  # of the mini-batches


@dataclass(frozen=True)
class Up:
    """One client's result."""

    round: int  # t, as in Down
    change: Tensors  # w_{k+1}^i - w_k, shape (d,)
    examples: int  # support and query images; the weight in the average
    loss: float  # mean cross-entropy on the query set after adaptation, nats
