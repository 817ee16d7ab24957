"""Contract: use the model on a client's own images and say how it does.

``Down`` is what clients get where there is a global model, to adapt. A method whose clients use
models of their own (``personal``) sends its own ``Down`` instead. ``Up`` is the same for both.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.contract import Between
from common.tensors import Tensors

Statistics = Literal["support", "query", "running"]


@dataclass(frozen=True)
class Down:
    """The model to evaluate and how to adapt it."""

    model: Tensors  # theta, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    alpha: float  # adaptation rate
    steps: int  # adaptation steps k; 0 evaluates the model as it is
    statistics: Statistics  # BatchNorm's after adaptation
    width: Annotated[float, Between(1e-6, 1)]  # of the network, where the client gets a slice of it


@dataclass(frozen=True)
class Up:
    """One entry for each client that the node plays."""

    clients: list[int]
    examples: list[int]  # images that nobody has trained on: test images, or query images
    correct_before: list[int]  # of them, right without adaptation
    correct_after: list[int]  # of them, right after k steps
    commonest: list[int]  # of them, right by naming the client's commonest class each time
    loss_before: list[float]  # mean cross-entropy on them, nats
    loss_after: list[float]
