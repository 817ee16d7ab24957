"""What every term sees of one mini-batch of D_s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Client model ("student") and private model ("teacher") on the same images.

    Attributes
    ----------
    indices: places of the images in D_s, shape (b,), int64.
    inputs: the images as the student takes them, shape (b, c, h, w).
    seed: for what is random in a term; the same batch has the same seed.
    features, logits: the student's, shapes (b, f_s) and (b, classes), with gradients.
    vector: the student's parameters, shape (d,), with gradients.
    labels: shape (b,), int64, or None where D_s is unlabelled.
    teacher_features, teacher_logits: shapes (b, f_t) and (b, classes of the teacher), or None
        where there is no teacher.
    """

    indices: Tensor
    inputs: Tensor
    seed: int
    features: Tensor
    logits: Tensor
    vector: Tensor
    labels: Tensor | None = None
    teacher_features: Tensor | None = None
    teacher_logits: Tensor | None = None


class Term(Protocol):
    """One term of R_h."""

    def __call__(self, batch: Batch) -> Tensor:
        """The value, a scalar with gradients."""
