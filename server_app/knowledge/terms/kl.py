"""Divergence of the student's class probabilities from the private model's.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015), equation (1):
both sides softened by a temperature T, and T^2 in front, so that T leaves the size of the
gradient about as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

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
        t = self._temperature
        student = functional.log_softmax(batch.logits[:, self._student] / t, dim=1)
        teacher = functional.log_softmax(batch.teacher_logits[:, self._teacher] / t, dim=1)
        return t * t * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _names(classes: Sequence[str]) -> str:
    if not classes:
        return "classes without names"
    return ", ".join(classes[:_SHOWN]) + (" ..." if len(classes) > _SHOWN else "")
