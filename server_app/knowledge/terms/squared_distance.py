"""Squared distance to given parameters, the regularizer of ADMM-FedMeta (arXiv 2012.08677)."""

from __future__ import annotations

from torch import Tensor

from server_app.knowledge.terms.batch import Batch


class SquaredDistance:
    """||theta - theta_c||^2, whose gradient is 2 (theta - theta_c).

    Parameters
    ----------
    center: theta_c, shape (d,).
    """

    def __init__(self, center: Tensor) -> None:
        self._center = center

    def __call__(self, batch: Batch) -> Tensor:
        """The value; it does not depend on the images."""
        return (batch.vector - self._center.to(batch.vector.dtype)).square().sum()
