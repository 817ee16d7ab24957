"""Contract: adapt the model on a device's support set and judge it on its query set."""

from dataclasses import dataclass

from common.tensors import Tensors


@dataclass(frozen=True)
class Down:
    """The model to judge and how to adapt it."""

    model: Tensors  # theta, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    alpha: float  # adaptation rate
    steps: int  # adaptation steps k; 0 judges the model as it is
    statistics: str  # BatchNorm after adaptation: "support", "query" or "running"


@dataclass(frozen=True)
class Up:
    """One entry for each client that the node plays."""

    clients: list[int]
    examples: list[int]  # query images
    correct_before: list[int]  # of them, right without adaptation
    correct_after: list[int]  # of them, right after k steps
    loss_before: list[float]  # mean cross-entropy on the query set, nats
    loss_after: list[float]
