"""Distillation losses against closed forms and against each other."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from client_app.distillation import decoupled, logit_mse, mixture, similarity
from common.divergence import kl


def logits(seed: int, n: int = 6, classes: int = 5) -> torch.Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)).double() * 3


def test_kl_by_hand():
    teacher = torch.tensor([[math.log(3.0), 0.0]])  # 3/4 and 1/4
    student = torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(kl(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_gradient_of_kl_is_the_difference_of_softened_answers(tau: float):
    student, teacher = logits(1).requires_grad_(), logits(2)
    kl(student, teacher, tau).backward()
    expected = tau / 6 * (F.softmax(student.detach() / tau, 1) - F.softmax(teacher / tau, 1))
    torch.testing.assert_close(student.grad, expected)


def test_hot_kl_is_the_mean_square_of_centred_logits():
    """For tau to infinity, tau^2 KL is half of it (Hinton et al., 2015, section 2.1)."""
    student, teacher = logits(1), logits(2)
    hot = kl(student, teacher, 1e4)
    torch.testing.assert_close(hot, logit_mse(student, teacher) / 2, rtol=1e-3, atol=0)


def test_shifted_logits_are_the_same_answer():
    student, teacher, labels = logits(1), logits(2), torch.arange(6) % 5
    shift = torch.randn(6, 1).double()
    for loss in (
        lambda s: kl(s, teacher, 2.0),
        lambda s: logit_mse(s, teacher),
        lambda s: decoupled(s, teacher, labels, 2.0, 8.0),
    ):
        torch.testing.assert_close(loss(student), loss(student + shift))


def test_decoupled_parts_make_up_kl():
    """KL = TCKD + (1 - p_T(label)) NCKD, image by image."""
    student, teacher, labels = logits(1), logits(2), torch.arange(6) % 5
    for row in range(6):
        one, other, label = student[row : row + 1], teacher[row : row + 1], labels[row : row + 1]
        beta = float(1 - F.softmax(other, 1)[0, label])
        torch.testing.assert_close(decoupled(one, other, label, 1.0, beta), kl(one, other, 1.0))


def test_decoupled_counts_the_other_classes_where_the_teacher_is_sure():
    teacher = torch.tensor([[30.0, 1.0, -1.0]])
    student = torch.tensor([[30.0, -1.0, 1.0]])
    label = torch.tensor([0])
    assert float(kl(student, teacher, 1.0)) < 1e-6
    assert float(decoupled(student, teacher, label, 1.0, 1.0)) > 1


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_mixture_averages_softened_answers(tau: float):
    both, weights = torch.stack([logits(1), logits(2)]), torch.tensor([0.25, 0.75]).double()
    expected = 0.25 * F.softmax(both[0] / tau, 1) + 0.75 * F.softmax(both[1] / tau, 1)
    torch.testing.assert_close(F.softmax(mixture(both, weights, tau) / tau, 1), expected)


def test_following_the_mixture_is_following_all_teachers():
    student, both = logits(3).requires_grad_(), torch.stack([logits(1), logits(2)])
    weights = torch.tensor([0.3, 0.7]).double()
    (one,) = torch.autograd.grad(kl(student, mixture(both, weights, 2.0), 2.0), student)
    each = sum(w * kl(student, z, 2.0) for w, z in zip(weights, both, strict=True))
    torch.testing.assert_close(one, torch.autograd.grad(each, student)[0])


def test_similarity_sees_no_rotation_and_no_width():
    features = logits(1, 6, 4)
    turned, _ = torch.linalg.qr(logits(2, 7, 7))
    wider = F.pad(features, (0, 3)) @ turned
    assert float(similarity(features, [wider], [1.0])) < 1e-12
    assert float(similarity(features, [logits(3, 6, 9)], [1.0])) > 0.01


def test_similarity_by_hand():
    """Teacher: two orthogonal images. Student: two equal ones, rows (1, 1) / sqrt(2)."""
    loss = similarity(torch.ones(2, 1), [torch.eye(2)], [1.0])
    root = 1 / math.sqrt(2)
    assert float(loss) == pytest.approx((1 - root) ** 2 + root**2, rel=1e-6)
