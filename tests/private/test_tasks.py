"""The term that teaches after adaptation, against a linear model written down by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import SettingsError
from common.models import FlatModel
from server_app.knowledge.terms.batch import Batch
from server_app.knowledge.terms.tasks import TaskShape, TaskTransfer
from tests.private.small import noise, regularizer, student

NAMES = ("a", "b")
ALPHA = 0.7


def linear() -> FlatModel:
    module = nn.Linear(3, 2, bias=False)
    module.weight.data = noise(2, 3, seed=1).float()
    return FlatModel(module)


def batch(images: int = 8, labels: Tensor | None = None, seed: int = 4) -> Batch:
    inputs = noise(images, 3, seed=2).float()
    return Batch(
        indices=torch.arange(images),
        inputs=inputs,
        seed=seed,
        features=inputs,
        logits=torch.zeros(images, 2, requires_grad=True),
        vector=torch.zeros(1),
        labels=labels,
        teacher_logits=noise(images, 2, seed=3).float(),
    )


def softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(rows)
    return odds / odds.sum(1, keepdims=True)


def by_hand(model: FlatModel, batch: Batch, kinds: NDArray[np.int64], support: int) -> float:
    """Support: the first ``support`` images of each class."""
    weight = model.module.weight.detach().numpy().astype(float)
    x, t = batch.inputs.numpy().astype(float), batch.teacher_logits.numpy().astype(float)
    own = [np.flatnonzero(kinds == kind) for kind in (0, 1)]
    s = np.concatenate([places[:support] for places in own])
    q = np.concatenate([places[support:] for places in own])
    slope = (softmax(x[s] @ weight.T) - np.eye(2)[kinds[s]]).T @ x[s] / len(s)
    told, wanted = softmax(x[q] @ (weight - ALPHA * slope).T), softmax(t[q])
    return float((wanted * np.log(wanted / told)).sum(1).mean())


def term(model: FlatModel, support: float = 0.25) -> TaskTransfer:
    return TaskTransfer(model, NAMES, NAMES, TaskShape(2, support, ALPHA))


def test_is_the_divergence_of_the_adapted_model() -> None:
    model, labels = linear(), torch.tensor([0, 1] * 4)
    given = batch(labels=labels)
    expected = by_hand(model, given, labels.numpy(), support=1)
    assert float(term(model)(given).detach()) == pytest.approx(expected, rel=1e-5)


def test_without_labels_the_private_model_sorts_the_images() -> None:
    model, given = linear(), batch()
    assert given.teacher_logits is not None
    kinds = given.teacher_logits.argmax(1).numpy()
    expected = by_hand(model, given, kinds, support=1)
    assert float(term(model)(given).detach()) == pytest.approx(expected, rel=1e-5)


def test_classes_of_other_tasks_count_as_mistakes() -> None:
    """The adapted model's probabilities are among all its classes, not among those of the task."""
    module = nn.Linear(3, 3, bias=False)
    nn.init.zeros_(module.weight)
    inputs = torch.zeros(4, 3)
    given = Batch(
        torch.arange(4), inputs, 0, inputs, inputs, torch.zeros(1),
        labels=torch.tensor([0, 1, 0, 1]), teacher_logits=torch.zeros(4, 3),
    )  # fmt: skip
    names, model = (*NAMES, "c"), FlatModel(module)
    value = TaskTransfer(model, names, names, TaskShape(2, 0.5, ALPHA))(given)
    assert float(value.detach()) == pytest.approx(np.log(3 / 2), rel=1e-5)
    # What D_s has no image of is no mistake, but unknown.
    value = TaskTransfer(model, names, names, TaskShape(2, 0.5, ALPHA), held={0, 1})(given)
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_tasks_are_of_classes_that_are_there(classes: int) -> None:
    """Ten classes and images of two: in any other pair, no task would be whole."""
    names = tuple("abcdefghij")
    module = nn.Linear(3, 10, bias=False)
    model = FlatModel(module)
    for seed in range(10):
        given = Batch(
            torch.arange(8), inputs := noise(8, 3, seed=seed).float(), seed, inputs,
            torch.zeros(8, 10), torch.zeros(1), labels=torch.tensor([3, 8] * 4),
            teacher_logits=noise(8, 10, seed=seed + 1).float(),
        )  # fmt: skip
        term = TaskTransfer(model, names, names, TaskShape(classes, 0.5, ALPHA), held={3, 8, 9})
        assert float(term(given).detach()) > 0


def test_a_batch_without_a_whole_task_is_worth_nothing() -> None:
    value = term(linear())(batch(images=2, labels=torch.tensor([0, 0])))
    assert float(value.detach()) == 0
    value.backward()  # and its gradient is zero, not an error


def test_too_few_shared_classes_name_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"tasks of 2 classes from 1, "):
        TaskTransfer(linear(), NAMES, ("b", "z"), TaskShape(2, 0.5, ALPHA))


def test_as_part_of_r_h_it_leaves_the_model_and_gives_its_value() -> None:
    model = student("resnet8x4")
    before = model.vector.clone()
    r_h = regularizer(model, cross_entropy=0, crd=0, tasks=1.0, batch_size=24)
    gradient, values = r_h.gradient(before.clone())
    assert torch.equal(model.vector, before)
    assert values["tasks"] > 0
    assert gradient.norm() > 0
    step = 1e-2 * gradient / gradient.norm()
    again = regularizer(model, cross_entropy=0, crd=0, tasks=1.0, batch_size=24)
    assert again.gradient(before - step)[1]["tasks"] < values["tasks"]
