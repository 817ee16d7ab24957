"""Every term's gradient against central differences in float64; closed forms of the values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from common.errors import ModelError
from common.models import features_and_logits, parts
from server_app.knowledge.terms.batch import Batch, Term
from server_app.knowledge.terms.crd import ContrastiveDistillation
from server_app.knowledge.terms.cross_entropy import CrossEntropy
from server_app.knowledge.terms.kl import KullbackLeibler
from server_app.knowledge.terms.squared_distance import SquaredDistance
from server_app.knowledge.terms.tasks import TaskShape, TaskTransfer
from tests.private.small import CLASSES, GREY8, double_student, labels, noise, pixels, settings

TEACHER_WIDTH = 5


@dataclass
class _Holder:
    module: nn.Module


def batch_of(module: nn.Module, teacher_classes: int = 3) -> Batch:
    indices = torch.tensor([1, 4, 5, 8, 9, 12])
    inputs = GREY8(pixels()[indices]).double()
    features, logits = features_and_logits(module, inputs)
    return Batch(
        indices=indices,
        inputs=inputs,
        seed=11,
        features=features,
        logits=logits,
        vector=parameters_to_vector(module.parameters()),
        labels=labels()[indices],
        teacher_features=noise(6, TEACHER_WIDTH),
        teacher_logits=noise(6, teacher_classes),
    )


def crd(module: nn.Module, labelled: bool) -> Term:
    term = ContrastiveDistillation(
        settings(),
        images=24,
        labels=labels() if labelled else None,
        student_width=parts.feature_size(module),
        teacher_width=TEACHER_WIDTH,
        seed=0,
    )
    term.heads.double()
    term(batch_of(module))  # sets the normalisation constants
    return term


def tasks(module: nn.Module, teacher: tuple[str, ...]) -> Term:
    return TaskTransfer(_Holder(module), CLASSES, teacher, TaskShape(2, 0.5, 0.3))


TERMS: dict[str, Callable[[nn.Module], Term]] = {
    "cross_entropy": lambda _: CrossEntropy(),
    "kl": lambda _: KullbackLeibler(CLASSES, CLASSES, 4.0),
    "kl_some_classes": lambda _: KullbackLeibler(CLASSES, ("star", "dog", "circle"), 1.0),
    "crd": lambda module: crd(module, labelled=True),
    "crd_unlabelled": lambda module: crd(module, labelled=False),
    "tasks": lambda module: tasks(module, CLASSES),
    "tasks_some_classes": lambda module: tasks(module, ("star", "dog", "circle")),
    "squared_distance": lambda _: SquaredDistance(torch.tensor(0.1)),
}


@pytest.mark.parametrize("model", ["cnn-tiny", "resnet8x4"])
@pytest.mark.parametrize("name", TERMS)
def test_gradient_is_that_of_central_differences(name: str, model: str) -> None:
    module = double_student(model)
    term = TERMS[name](module)
    start = parameters_to_vector(module.parameters()).detach()

    def value(vector: Tensor) -> float:
        vector_to_parameters(vector, module.parameters())
        return float(term(batch_of(module)).detach())

    total = term(batch_of(module))
    gradient = torch.cat([g.reshape(-1) for g in _grad(total, module)])
    assert gradient.norm() > 1e-3
    for seed in range(4):
        # Short steps: a ReLU or a maximum that switches on the way would be no error.
        direction = unit(gradient) + unit(noise(len(start), seed=seed))
        step = 1e-8 * direction
        slope = (value(start + step) - value(start - step)) / 2e-8
        assert slope == pytest.approx(float(gradient @ direction), rel=1e-5, abs=1e-7)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _grad(value: Tensor, module: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
    pairs = zip(found, module.parameters(), strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


def test_cross_entropy_of_even_logits_is_the_logarithm_of_the_classes() -> None:
    batch = _batch(logits=torch.zeros(4, 3), labels=torch.tensor([0, 1, 2, 2]))
    assert float(CrossEntropy()(batch)) == pytest.approx(np.log(3))


def test_kl_against_its_definition() -> None:
    student, teacher, temperature = noise(4, 3, seed=1), noise(4, 3, seed=2), 2.5
    p = np.exp(teacher.numpy() / temperature)
    p /= p.sum(1, keepdims=True)
    q = np.exp(student.numpy() / temperature)
    q /= q.sum(1, keepdims=True)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    term = KullbackLeibler(CLASSES, CLASSES, temperature)
    value = term(_batch(logits=student, teacher_logits=teacher))
    assert float(value) == pytest.approx(expected)


def test_kl_finds_shared_classes_by_name_in_any_order() -> None:
    logits = noise(4, 3)
    # The teacher thinks the same of the shared classes, and has one more.
    order = [2, 0, 1]
    shuffled = torch.cat([noise(4, 1, seed=9), logits[:, order]], dim=1)
    names = ("dog", *(CLASSES[i] for i in order))
    term = KullbackLeibler(CLASSES, names, 4.0)
    value = float(term(_batch(logits=logits, teacher_logits=shuffled)))
    assert value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("names", [(), ("dog", "cat"), ("star", "dog")])
def test_kl_without_shared_classes_is_an_error_that_says_so(names: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match=r"share by name.*circle, square, star"):
        KullbackLeibler(CLASSES, names, 4.0)


def test_squared_distance_in_closed_form() -> None:
    vector = noise(7).requires_grad_()
    center = noise(7, seed=8)
    value = SquaredDistance(center)(_batch(logits=torch.zeros(1, 3), vector=vector))
    (gradient,) = torch.autograd.grad(value, vector)
    assert float(value.detach()) == pytest.approx(float(((vector - center) ** 2).sum().detach()))
    torch.testing.assert_close(gradient, 2 * (vector - center))


def _batch(
    logits: Tensor,
    labels: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    vector: Tensor | None = None,
) -> Batch:
    return Batch(
        indices=torch.arange(len(logits)),
        inputs=logits,
        seed=0,
        features=logits,
        logits=logits,
        vector=torch.zeros(1) if vector is None else vector,
        labels=labels,
        teacher_logits=teacher_logits,
    )
