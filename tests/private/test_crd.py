"""CRD against an independent reference in numpy, and its state from batch to batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import DataError, RunError
from server_app.knowledge.terms.batch import Batch
from server_app.knowledge.terms.crd import ContrastiveDistillation
from server_app.knowledge.terms.negatives import Negatives
from tests.private.small import labels, noise, settings

IMAGES, STUDENT, TEACHER, TAU, EPSILON = 24, 7, 5, 0.07, 1e-7


def term(labelled: bool = True, **values: object) -> ContrastiveDistillation:
    return ContrastiveDistillation(
        settings(**values), IMAGES, labels() if labelled else None, STUDENT, TEACHER, seed=2
    )


def batch(indices: list[int], seed: int = 21) -> Batch:
    count = len(indices)
    return Batch(
        indices=torch.tensor(indices),
        inputs=torch.zeros(count, 1, 8, 8),
        seed=seed,
        features=noise(count, STUDENT, seed=seed).float(),
        logits=torch.zeros(count, 3),
        vector=torch.zeros(1),
        teacher_features=noise(count, TEACHER, seed=seed + 1).float(),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def projection(crd: ContrastiveDistillation, side: str, features: Tensor) -> np.ndarray:
    head = crd.heads[side]
    weight, bias = (t.detach().numpy().astype(np.float64) for t in (head.weight, head.bias))
    return unit(features.numpy().astype(np.float64) @ weight.T + bias)


def reference(
    crd: ContrastiveDistillation, b: Batch, negatives: Tensor, constants: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """The value, one image and one negative at a time; constants are set where they are not."""
    constants = dict(constants)
    total = 0.0
    sides = [("teacher", "student", b.features), ("student", "teacher", b.teacher_features)]
    for memory_side, anchor_side, features in sides:
        assert features is not None
        memory = crd.memory[memory_side].numpy().astype(np.float64)
        anchors = projection(crd, anchor_side, features)
        scores = np.array(
            [
                [np.exp(memory[j] @ anchors[row] / TAU) for j in [int(i), *map(int, chosen)]]
                for row, (i, chosen) in enumerate(zip(b.indices, negatives, strict=True))
            ]
        )
        z = constants.setdefault(memory_side, scores.mean() * IMAGES)
        c = negatives.shape[1] / IMAGES
        for row in scores / z:
            total -= np.log(row[0] / (row[0] + c + EPSILON)) / len(scores)
            total -= sum(np.log(c / (p + c + EPSILON)) for p in row[1:]) / len(scores)
    return total, constants


def drawn(b: Batch, labelled: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(b.seed)
    return Negatives(IMAGES, labels() if labelled else None).draw(b.indices, 32, generator)


@pytest.mark.parametrize("labelled", [True, False])
def test_value_and_constants_are_those_of_the_reference(labelled: bool) -> None:
    crd, first = term(labelled), batch([0, 3, 4, 11, 20])
    expected, constants = reference(crd, first, drawn(first, labelled), {})
    assert float(crd(first).detach()) == pytest.approx(expected, rel=1e-5)
    assert crd.constants == pytest.approx(constants, rel=1e-5)


def test_constants_stay_those_of_the_first_batch() -> None:
    crd, first, second = term(), batch([0, 3, 4, 11]), batch([5, 6, 7, 8], seed=40)
    crd(first)
    frozen = dict(crd.constants)
    expected, _ = reference(crd, second, drawn(second), frozen)
    assert float(crd(second).detach()) == pytest.approx(expected, rel=1e-5)
    assert crd.constants == frozen
    assert reference(crd, second, drawn(second), {})[1] != pytest.approx(frozen, rel=1e-3)


def test_memory_takes_the_projections_that_were_scored_and_nothing_else() -> None:
    crd, b = term(memory_momentum=0.25, head_learning_rate=10.0), batch([2, 7, 9])
    old = {side: rows.numpy().copy() for side, rows in crd.memory.items()}
    assert b.teacher_features is not None
    z = {
        "student": projection(crd, "student", b.features),
        "teacher": projection(crd, "teacher", b.teacher_features),
    }
    torch.autograd.backward(crd(b))
    crd.learn(b)
    for side, rows in crd.memory.items():
        expected = old[side].copy()
        expected[[2, 7, 9]] = unit(0.25 * old[side][[2, 7, 9]] + 0.75 * z[side])
        np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_projections_take_a_step_of_sgd_with_momentum_and_decay() -> None:
    crd = term(head_learning_rate=0.1, head_momentum=0.9, head_weight_decay=0.01)
    buffers = {name: 0.0 for name, _ in crd.heads.named_parameters()}
    for seed in (1, 50):
        torch.autograd.backward(crd(batch([0, 1, 2], seed)))
        expected = {}
        for name, p in crd.heads.named_parameters():
            assert p.grad is not None
            buffers[name] = 0.9 * buffers[name] + p.grad + 0.01 * p.detach()
            expected[name] = p.detach() - 0.1 * buffers[name]
        crd.learn(batch([0, 1, 2], seed))
        for name, p in crd.heads.named_parameters():
            torch.testing.assert_close(p.detach(), expected[name])
            assert p.grad is None


def test_memory_begins_uniform_with_rows_of_about_unit_length() -> None:
    crd = ContrastiveDistillation(
        settings(feature_dim=128), 400, None, student_width=3, teacher_width=3, seed=0
    )
    for rows in crd.memory.values():
        bound = 1 / np.sqrt(128 / 3)
        assert float(rows.abs().max()) <= bound
        assert float(rows.std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)
        assert float(rows.norm(dim=1).mean()) == pytest.approx(1, rel=0.02)


def test_memories_begin_as_projections_of_all_features() -> None:
    crd, published = term(), term(memory_start="random")
    assert crd.awaits_features
    assert not published.awaits_features
    features = {
        "student": noise(IMAGES, STUDENT).float(),
        "teacher": noise(IMAGES, TEACHER).float(),
    }
    crd.remember(features["student"], features["teacher"])
    for side, rows in crd.memory.items():
        expected = projection(crd, side, features[side])
        np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5, atol=1e-6)
    crd(batch([0, 1, 2]))
    assert not crd.awaits_features


def test_negatives_are_never_of_the_anchors_class_and_reach_all_others() -> None:
    classes = torch.tensor([0, 2, 2, 0, 1, 1, 1, 1, 2, 0])
    anchors = torch.arange(10)
    chosen = Negatives(10, classes).draw(anchors, 4000, torch.Generator().manual_seed(0))
    for anchor, row in zip(anchors, chosen, strict=True):
        others = [i for i in range(10) if classes[i] != classes[anchor]]
        assert sorted(set(row.tolist())) == others
        counts = torch.bincount(row, minlength=10)[others] / 4000
        assert counts.numpy() == pytest.approx(1 / len(others), abs=0.04)


def test_negatives_without_labels_are_any_other_image() -> None:
    chosen = Negatives(6, None).draw(torch.arange(6), 600, torch.Generator().manual_seed(0))
    for anchor, row in enumerate(chosen):
        assert sorted(set(row.tolist())) == [i for i in range(6) if i != anchor]


def test_labels_of_one_class_leave_no_negatives() -> None:
    with pytest.raises(DataError, match=r"two classes.*labelled=false"):
        Negatives(5, torch.zeros(5, dtype=torch.int64))


def test_state_goes_round_and_refuses_what_does_not_fit() -> None:
    crd, other = term(), term(head_learning_rate=0.5)
    torch.autograd.backward(crd(batch([0, 1, 2])))
    crd.learn(batch([0, 1, 2]))
    state = crd.state()
    other.load_state(state)
    assert other.constants == crd.constants
    assert all(np.array_equal(state[name], value) for name, value in other.state().items())
    with pytest.raises(RunError, match=r"memory\.student"):
        other.load_state({**state, "memory.student": state["memory.student"][:-1]})
    with pytest.raises(RunError, match=r"head\.teacher\.bias"):
        other.load_state({k: v for k, v in state.items() if k != "head.teacher.bias"})
