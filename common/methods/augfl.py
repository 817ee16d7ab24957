"""AugFL (arXiv 2503.02154): what crosses the wire.

The paper uploads theta_i and y_i. The server needs only their combination, and of that only the
change: ``increment`` = rho_i (theta_i^t - theta^t) = y_i^t - y_i^{last}, by equations (11) and
(12). rho itself cancels out of it, so it never leaves the server.
"""

from dataclasses import dataclass
from typing import Literal

from common.contract import Positive, Result, Work
from common.tensors import Tensors

Difference = Literal["central", "forward"]


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # theta^t, shape (d,)
    weight: float  # w_i, the client's share of all training images
    alpha: float  # adaptation rate
    delta: float  # finite-difference step of equation (10)
    difference: Difference  # four gradients or three
    batch_size: int  # images a gradient; 0 takes all
    acknowledged: int  # round of this client's last reply that entered the sum; 0 for none
    dual: list[float]  # sketch of y_i of that round; zeros for none


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is that on the query set after adaptation."""

    base: int  # round whose dual the increment starts from; 0 for a dual of zero
    increment: Tensors  # y_i^t - y_i^{base}, shape (d,)
    dual: list[float]  # sketch of y_i^t (common/sketch.py)
    curvature: Positive  # ||H_i r|| / ||r|| along the meta-gradient, H_i of the support loss
