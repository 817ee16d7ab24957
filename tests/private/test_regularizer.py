"""R_h as a whole: its gradient, its manners towards the model, and going on from a checkpoint."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import DataError, ModelError, RunError, SettingsError
from common.models import FlatModel, build
from server_app.knowledge.build import build_regularizer
from server_app.knowledge.sampler import EpochSampler
from tests.private.small import (
    CLASSES,
    GREY8,
    labels,
    pixels,
    regularizer,
    settings,
    student,
    teacher,
)

ALL = {"kl": 0.5, "crd": 0.8, "squared_distance": 0.3}


def test_loss_is_the_weighted_sum_of_the_named_terms() -> None:
    model = student()
    _, values = regularizer(model, **ALL).gradient(model.vector.clone())
    assert set(values) == {"cross_entropy", "kl", "crd", "squared_distance", "loss"}
    weighted = values["cross_entropy"] + sum(w * values[name] for name, w in ALL.items())
    assert values["loss"] == pytest.approx(weighted, rel=1e-6)


def test_gradient_is_the_slope_of_the_loss() -> None:
    model = student("resnet8x4-gn")
    vector = model.vector.clone()
    first = regularizer(model, **ALL)
    first.gradient(vector)
    # With the constants of CRD that the first batch has set, and back to that batch.
    state = first.state() | {"batches": 0}

    def at(point: Tensor) -> tuple[Tensor, float]:
        r_h = regularizer(model, **ALL)
        r_h.load_state(state)
        gradient, values = r_h.gradient(point)
        return gradient, values["loss"]

    gradient, _ = at(vector)
    step = 2e-3 * gradient / gradient.norm()
    slope = (at(vector + step)[1] - at(vector - step)[1]) / 4e-3
    assert slope == pytest.approx(float(gradient.norm()), rel=0.01)


def test_gradient_of_the_squared_distance_alone_is_exact() -> None:
    model = student()
    only = regularizer(model, cross_entropy=0, crd=0, squared_distance=2.0)
    vector = torch.randn_like(model.vector)
    gradient, values = only.gradient(vector)
    torch.testing.assert_close(gradient, 4 * (vector - 0.01))
    assert only.curvature(vector, gradient) == pytest.approx(4, rel=1e-3)
    assert values["squared_distance"] == pytest.approx(float((vector - 0.01).square().sum()))


@pytest.mark.parametrize("name", ["cnn-tiny", "resnet8x4", "torchvision:mobilenet_v3_small"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = FlatModel(build(name, classes=3, channels=1, image_size=8))
    model.module.train()
    next(iter(model.module.children())).eval()
    vector, buffers = model.vector.clone(), copy.deepcopy(dict(model.module.named_buffers()))
    modes = [layer.training for layer in model.module.modules()]
    r_h = regularizer(model)
    gradient, _ = r_h.gradient(vector * 1.01)
    r_h.curvature(vector * 1.01, gradient)
    assert torch.equal(model.vector, vector)
    assert all(torch.equal(b, buffers[n]) for n, b in model.module.named_buffers())
    assert [layer.training for layer in model.module.modules()] == modes


def test_batch_norm_uses_the_statistics_of_the_batch() -> None:
    model = student("resnet8x4")
    vector = model.vector.clone()
    first, _ = regularizer(model).gradient(vector)
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.fill_(3.0)  # type: ignore[union-attr]
    second, _ = regularizer(model).gradient(vector)
    assert torch.equal(first, second)


def test_curvature_is_that_of_the_last_batch_and_changes_no_state() -> None:
    model = student()
    r_h, same = regularizer(model, **ALL), regularizer(model, **ALL)
    vector = model.vector.clone()
    for _ in range(2):
        gradient, _ = r_h.gradient(vector)
        assert r_h.curvature(vector, gradient) == r_h.curvature(vector, gradient) > 0
        other, _ = same.gradient(vector)
        assert torch.equal(gradient, other)
    assert r_h.curvature(vector, torch.zeros_like(vector)) == 0


@pytest.mark.parametrize("start", ["features", "random"])
def test_memories_of_features_keep_the_loss_level_over_the_first_epochs(start: str) -> None:
    """Random memories let it jump as soon as an epoch has replaced them."""
    model = student()
    vector = model.vector.clone()
    r_h = regularizer(model, memory_start=start, feature_dim=64, head_learning_rate=0)
    losses = [r_h.gradient(vector)[1]["crd"] for _ in range(9)]
    jump = float(np.mean(losses[6:]) / np.mean(losses[:3]))
    assert jump < 1.05 if start == "features" else jump > 1.15, losses


def test_an_epoch_sees_each_image_once_in_an_order_of_its_own() -> None:
    sampler = EpochSampler(images=26, batch_size=8, seed=0)
    epochs = [torch.cat([sampler.draw()[0] for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        # The last two are left out, so that every batch has its full size.
        assert len(set(epoch.tolist())) == 24
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_a_resumed_run_goes_on_bit_for_bit(augment: str) -> None:
    model = student("resnet8x4")
    vector = model.vector.clone()
    whole = regularizer(model, **ALL, augment=augment, head_learning_rate=0.1)
    for _ in range(4):
        vector = vector - 0.05 * whole.gradient(vector)[0]
    state, start = copy.deepcopy(whole.state()), vector.clone()
    first = [whole.gradient(vector) for _ in range(4)]
    resumed = regularizer(student("resnet8x4"), **ALL, augment=augment, head_learning_rate=0.1)
    resumed.load_state(state)
    second = [resumed.gradient(start) for _ in range(4)]
    for (one, one_values), (two, two_values) in zip(first, second, strict=True):
        assert torch.equal(one, two)
        assert one_values == two_values
    _same(whole.state(), resumed.state())


def _same(one: object, two: object) -> None:
    if isinstance(one, dict) and isinstance(two, dict):
        assert one.keys() == two.keys()
        for name in one:
            _same(one[name], two[name])
    else:
        assert type(one) is type(two)
        assert np.array_equal(one, two)  # type: ignore[arg-type]


def test_a_state_of_another_private_model_or_other_terms_is_refused() -> None:
    state = regularizer().state()
    with pytest.raises(RunError, match="another private model"):
        regularizer(pretrained=teacher(seed=9)).load_state(state)
    with pytest.raises(RunError, match="another private model"):
        regularizer(images=pixels(seed=4)).load_state(state)
    with pytest.raises(RunError, match="no state of the term crd"):
        regularizer(kl=1, crd=0.8).load_state(regularizer(kl=1, crd=0).state())


def test_without_labels_there_is_no_cross_entropy_and_crd_goes_on() -> None:
    model = student()
    r_h = build_regularizer(
        settings(), model, pixels(), None, teacher(), 0, classes=CLASSES, preprocessing=GREY8
    )
    _, values = r_h.gradient(model.vector.clone())
    assert set(values) == {"crd", "loss"}
    # Labels that must not be used are as good as none.
    _, same = regularizer(model, labelled=False, squared_distance=0).gradient(model.vector.clone())
    assert set(same) == {"crd", "loss"}


def test_knowledge_flows_a_step_along_the_gradient_lowers_the_loss() -> None:
    model = student()
    vector = model.vector.clone()
    r_h = regularizer(model, kl=1.0, crd=0, cross_entropy=0, batch_size=24)
    losses = []
    for _ in range(30):
        gradient, values = r_h.gradient(vector)
        losses.append(values["kl"])
        vector = vector - 0.02 * gradient
    assert losses[-1] < 0.5 * losses[0]


def test_a_small_set_is_one_batch() -> None:
    model = student()
    r_h = build_regularizer(
        settings(batch_size=64, negatives=16384),
        model,
        pixels(5),
        torch.tensor([0, 1, 2, 0, 1]),
        teacher(),
        0,
        classes=CLASSES,
        preprocessing=GREY8,
    )
    gradient, _ = r_h.gradient(model.vector.clone())
    assert torch.isfinite(gradient).all()


def _build(**changed: object) -> None:
    arguments = {
        "settings": settings(),
        "model": student(),
        "server_images": pixels(),
        "server_labels": labels(),
        "pretrained": teacher(),
        "seed": 0,
        "classes": CLASSES,
        "preprocessing": GREY8,
    }
    build_regularizer(**(arguments | changed))  # type: ignore[arg-type]


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ModelError, match=r"knowledge.kl=0, knowledge.crd=0 and knowledge.tasks=0"):
        _build(pretrained=None)
    with pytest.raises(SettingsError, match="no term"):
        _build(settings=settings(crd=0), server_labels=None)
    with pytest.raises(SettingsError, match="squared-distance needs parameters"):
        _build(settings=settings(squared_distance=1))
    with pytest.raises(ModelError, match="theta_c must be"):
        _build(settings=settings(squared_distance=1), center=torch.zeros(3))
    with pytest.raises(DataError, match="uint8"):
        _build(server_images=pixels().float())
    with pytest.raises(DataError, match="at least 2 images"):
        _build(server_images=pixels(1), server_labels=labels(1))
    with pytest.raises(DataError, match="24 images need as many labels"):
        _build(server_labels=labels(7))
    with pytest.raises(DataError, match="labels must be 0 to 2"):
        _build(server_labels=labels() + 1)
    with pytest.raises(DataError, match=r"3 outputs.*2 classes"):
        _build(classes=CLASSES[:2], server_labels=None)
