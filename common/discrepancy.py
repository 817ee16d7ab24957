"""How far two samples are apart as distributions."""

from __future__ import annotations

import torch
from torch import Tensor

WIDTHS = (10, 15, 20, 50)


def mmd(one: Tensor, other: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of rows, shapes (n, l) and (m, l), summed over Gaussian
    kernels of variances ``WIDTHS``."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(2)
        return torch.stack([(-0.5 * square / width).exp().mean() for width in WIDTHS]).sum()

    return kernel(one, one) + kernel(other, other) - 2 * kernel(one, other)
