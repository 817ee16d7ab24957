"""The divergence of one model's class probabilities from another's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL(softmax(teacher / tau) || softmax(student / tau)), mean over the images, in nats.

    Both sides are softened by a temperature tau, and the factor leaves the size of the gradient
    about as it is: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015),
    equation (1).

    Parameters
    ----------
    student, teacher: logits, shape (n, c).
    """
    return tau**2 * divergence(F.log_softmax(student / tau, 1), F.log_softmax(teacher / tau, 1))


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of log-probabilities, shape (n, c), mean over the rows."""
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")
