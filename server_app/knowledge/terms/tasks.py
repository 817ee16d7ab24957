"""Transfer after adaptation: the private model teaches on tasks like those that clients have.

A term on the outputs of theta itself asks for a model that knows all classes at once, while the
clients ask for one that adapts to a few; the two pull apart. Here each mini-batch of D_s is divided
into tasks of a few classes, with a support and a query set as a client's, and the divergence is
taken where a client's loss is taken: at phi = theta - alpha grad L(theta; support), AugFL's
equation (7). The server has the means for the exact gradient through that step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from common.divergence import divergence
from common.errors import SettingsError
from common.models import FlatModel
from server_app.knowledge.terms.batch import Batch


@dataclass(frozen=True)
class TaskShape:
    """What a client's task looks like.

    Attributes
    ----------
    classes: of a task, at most.
    support: share of a task's images to adapt on.
    alpha: step of the adaptation.
    """

    classes: int
    support: float
    alpha: float


class TaskTransfer:
    """KL(private model || adapted client model) on the query images, mean over images.

    The private model's probabilities are among the classes of the task, the client's among all
    that D_s has: to know what a task is about is what adaptation is for, while about a class
    without images in D_s the server has nothing to say, and not that it is always wrong. Images are
    sorted by their labels, or by what the private model takes them for where D_s is unlabelled.

    Parameters
    ----------
    student, teacher: class names in the order of each model's logits.
    held: numbers of the student's classes that D_s has images of; all of them without it.

    Raises
    ------
    SettingsError: tasks have one class, or the models and D_s share fewer than two.
    """

    def __init__(
        self,
        model: FlatModel,
        student: Sequence[str],
        teacher: Sequence[str],
        shape: TaskShape,
        held: Collection[int] | None = None,
    ) -> None:
        shared = [
            name
            for number, name in enumerate(student)
            if name in teacher and (held is None or number in held)
        ]
        if len(shared) < 2 or shape.classes < 2:
            raise SettingsError(
                f"knowledge.tasks draws tasks of {shape.classes} classes from {len(shared)}, those "
                "that the private model and the server's images share by name with the data set; "
                "tasks need two classes or more, or set knowledge.tasks=0"
            )
        self._model = model
        self._shape = shape
        self._student = torch.tensor([list(student).index(name) for name in shared])
        self._teacher = torch.tensor([list(teacher).index(name) for name in shared])

    def __call__(self, batch: Batch) -> Tensor:
        """The value on the tasks of this batch; 0 if it holds too few images for any."""
        if batch.teacher_logits is None:
            raise TypeError("the tasks term needs the private model's logits")
        log_odds = batch.teacher_logits[:, self._teacher]
        kinds = batch.labels
        if kinds is None:
            kinds = self._student[log_odds.argmax(1)]
        # Part of the graph, so that a batch without a whole task has a gradient: zero.
        total, images = 0.0 * batch.logits.sum(), 0
        for classes, support, query in self._draw(kinds, batch.seed):
            logits = self._adapted(batch.inputs, kinds, support, query)
            known = [int((self._student == kind).nonzero()) for kind in classes]
            wanted = functional.log_softmax(log_odds[query][:, known], dim=1)
            told = functional.log_softmax(logits[:, self._student], dim=1)[:, known]
            total = total + len(query) * divergence(told, wanted)
            images += len(query)
        return total / max(1, images)

    def _draw(self, kinds: Tensor, seed: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Tasks: their classes, and places of support and query images in the batch."""
        generator = torch.Generator().manual_seed(seed)
        # A class needs an image on either side of the adaptation.
        there = torch.stack([(kinds == kind).sum() >= 2 for kind in self._student])
        present = self._student[there]
        order = present[torch.randperm(len(present), generator=generator)].tolist()
        size = min(self._shape.classes, len(order))
        for at in range(0, len(order) - size + 1, size) if size > 1 else ():
            classes = order[at : at + size]
            support, query = [], []
            for kind in classes:
                own = (kinds == kind).nonzero().flatten()
                count = min(max(1, round(self._shape.support * len(own))), len(own) - 1)
                support.append(own[:count])
                query.append(own[count:])
            yield classes, torch.cat(support), torch.cat(query)

    def _adapted(self, inputs: Tensor, kinds: Tensor, support: Tensor, query: Tensor) -> Tensor:
        module = self._model.module
        theta: dict[str, Tensor] = dict(module.named_parameters())
        loss = functional.cross_entropy(
            functional_call(module, theta, (inputs[support],)), kinds[support]
        )
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        phi = {
            name: parameter - self._shape.alpha * grad
            for (name, parameter), grad in zip(theta.items(), grads, strict=True)
        }
        logits: Tensor = functional_call(module, phi, (inputs[query],))
        return logits
