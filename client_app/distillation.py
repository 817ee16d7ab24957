"""Losses that carry knowledge from one model's outputs to another's.

Logits have shape (b, c). Every loss is a mean over the images of the batch, in nats where it is a
divergence, and multiplied by tau^2 where there is a temperature tau, so that its gradient does
not shrink with it (Hinton et al., 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.divergence import divergence


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of logits (Ba and Caruana, 2014), each row centred.

    A softmax does not see a constant added to all its inputs, so neither does this loss.
    """
    return F.mse_loss(_centred(student), _centred(teacher))


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, tau: float, beta: float) -> Tensor:
    """tau^2 (TCKD + beta NCKD), decoupled distillation (Zhao et al., 2022).

    TCKD is the divergence between the two-way distributions (the label, all else), NCKD between
    those over the other classes. KL = TCKD + (1 - p_T(label)) NCKD: here the second part counts
    just as much where the teacher is sure.
    """
    chosen = F.one_hot(labels, student.shape[1]).bool()
    two_way, others = [], []
    for logits in (student / tau, teacher / tau):
        logs = F.log_softmax(logits, 1)
        rest = logs.masked_fill(chosen, -torch.inf).logsumexp(1)
        two_way.append(torch.stack([logs[chosen], rest], 1))
        others.append(F.log_softmax(logits[~chosen].view(len(logits), -1), 1))
    return tau**2 * (divergence(*two_way) + beta * divergence(*others))


def similarity(student: Tensor, teachers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Similarity-preserving distillation of features (Tung and Mori, 2019).

    The b x b matrix of inner products between the images of a batch, each row of length 1, is the
    student's to imitate. It needs no projection between features of different widths, so that
    nothing besides the student has to be trained or kept, and several teachers just add up. The
    squared distance of rows is averaged over the b images; the paper divides by b^2 instead and
    makes up for it with a weight of thousands.

    Parameters
    ----------
    student: features, shape (b, f).
    teachers: features of each teacher, shapes (b, f_k).
    weights: of the teachers, summing to 1.
    """
    own = _gram(student)
    goal = torch.zeros_like(own)
    for weight, features in zip(weights, teachers, strict=True):
        goal += weight * _gram(features)
    return (own - goal).square().sum(1).mean()


def mixture(logits: Tensor, weights: Tensor, tau: float) -> Tensor:
    """Logits, shape (n, c), of the weighted mean of several softened answers.

    softmax(result / tau) = sum_k w_k softmax(logits_k / tau). One teacher's logits come back
    shifted by a constant a row. Probabilities are averaged because logits of different teachers
    have different scales; to follow this mean is to follow all teachers at once, since
    sum_k w_k KL(p_k || q) = KL(mean || q) + a term without q.

    Parameters
    ----------
    logits: shape (k, n, c).
    weights: shape (k,), summing to 1.
    """
    logs = F.log_softmax(logits / tau, 2) + weights.log().view(-1, 1, 1)
    return tau * logs.logsumexp(0)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _gram(features: Tensor) -> Tensor:
    return F.normalize(features @ features.T, dim=1)
