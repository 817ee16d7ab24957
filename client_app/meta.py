"""The meta-gradient without Hessians.

For F(theta) = L(theta - alpha grad L(theta; S); Q) the gradient is (I - alpha H) r with
r = grad L(phi; Q), phi = theta - alpha grad L(theta; S) and H the Hessian of L(.; S) at theta.
The product H r is estimated by a finite difference of gradients (AugFL, equation (10); for
Per-FedAvg see Fallah et al. 2020, section 5, HF).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from client_app.batches import Batch


class HasGradient(Protocol):
    """Anything that evaluates a loss gradient at a flat vector; see ``Device.gradient``."""

    def gradient(self, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """Gradient, shape (d,), valid until the next call, and value of the loss."""


@dataclass(frozen=True)
class MetaGradient:
    """An estimate of (I - alpha H) r.

    Attributes
    ----------
    vector: shape (d,).
    loss: L(phi; Q), nats.
    curvature: ||H r|| / ||r||, 0 where r vanishes.
    """

    vector: Tensor
    loss: float
    curvature: float


def meta_gradient(
    model: HasGradient,
    theta: Tensor,
    support: Batch,
    query: Batch,
    *,
    alpha: float,
    delta: float,
    difference: str,
    hessian_batch: Batch | None = None,
) -> MetaGradient:
    """One-step adaptation, query gradient and Hessian-gradient product: 4 or 3 gradients.

    Parameters
    ----------
    theta: shape (d,); unchanged.
    delta: step of the finite difference along r, which is not normalised, as published.
    difference: "central", error O(delta^2 ||r||^3), four gradients; "forward", which reuses the
        support gradient, three, and has a bias of first order,
        (delta / 2) D^3 L(theta; S)[r, r], plus O(delta^2 ||r||^3). "none" drops the product.
    hessian_batch: images of the Hessian; by default those of the adaptation.
    """
    start = model.gradient(theta, support)[0].clone()
    phi = theta.sub(start, alpha=alpha)  # equation (7)
    r, loss = model.gradient(phi, query)
    r = r.clone()
    if difference == "none":
        return MetaGradient(r, loss, 0.0)
    batch = support if hessian_batch is None else hessian_batch
    product = model.gradient(theta.add(r, alpha=delta), batch)[0].clone()  # equation (10)
    if difference == "central":
        product.sub_(model.gradient(theta.sub(r, alpha=delta), batch)[0]).div_(2 * delta)
    else:
        product.sub_(start).div_(delta)
    norm = float(r.norm())
    curvature = float(product.norm()) / norm if norm > 0 else 0.0
    return MetaGradient(r.sub_(product, alpha=alpha), loss, curvature)
