"""Divergence of the student's class probabilities from the private model's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.divergence import kl
from common.errors import ModelError
from server_app.knowledge.terms.batch import Batch

_SHOWN = 6


class KullbackLeibler:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) over the classes that both know.

    Parameters
    ----------
    student, teacher: class names in the order of each model's logits; empty where unknown.

    Raises
    ------
    ModelError: fewer than two names are known to both.
    """

    def __init__(self, student: Sequence[str], teacher: Sequence[str], temperature: float) -> None:
        shared = [name for name in student if name in teacher]
        if len(shared) < 2:
            raise ModelError(
                "the KL term needs two or more classes that the private model and the data set "
                f"share by name; the private model has {_names(teacher)}, the data set "
                f"{_names(student)}. Set knowledge.kl=0, or name the classes alike"
            )
        self._student = torch.tensor([list(student).index(name) for name in shared])
        self._teacher = torch.tensor([list(teacher).index(name) for name in shared])
        self._temperature = temperature

    def __call__(self, batch: Batch) -> Tensor:
        """Mean over the batch; both sides are probabilities among the shared classes."""
        if batch.teacher_logits is None:
            raise TypeError("the KL term needs the private model's logits")
        student, teacher = batch.logits[:, self._student], batch.teacher_logits[:, self._teacher]
        return kl(student, teacher, self._temperature)


def _names(classes: Sequence[str]) -> str:
    if not classes:
        return "classes without names"
    return ", ".join(classes[:_SHOWN]) + (" ..." if len(classes) > _SHOWN else "")
