"""Private models that differ from the client model: classes, size, channels, library."""

from __future__ import annotations

import pytest
import torch

from common.errors import ModelError
from common.models import build
from common.models.preprocessing import Preprocessing
from server_app.knowledge.build import build_regularizer
from server_app.private.pretrained import PretrainedModel
from tests.private.small import CLASSES, GREY8, labels, pixels, settings, student

COLOUR12 = Preprocessing(3, 12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))


def other(classes: tuple[str, ...], outputs: int | None = None) -> PretrainedModel:
    count = outputs or len(classes)
    module = build("cnn-tiny", classes=count, channels=3, image_size=12)
    return PretrainedModel("cnn-tiny", module, classes, COLOUR12)


def gradient(pretrained: PretrainedModel, **values: object) -> torch.Tensor:
    model = student("resnet8x4-gn")
    r_h = build_regularizer(
        settings(cross_entropy=0, **values),
        model,
        pixels(),
        labels(),
        pretrained,
        0,
        classes=CLASSES,
        preprocessing=GREY8,
    )
    result, _ = r_h.gradient(model.vector.clone())
    return result


@pytest.mark.parametrize(
    "classes",
    [CLASSES, ("star", "dog", "square", "cat", "circle"), ("square", "star")],
)
def test_other_classes_size_and_channels_work(classes: tuple[str, ...]) -> None:
    found = gradient(other(classes), kl=1.0)
    assert torch.isfinite(found).all()
    assert found.norm() > 0


def test_without_shared_classes_crd_works_and_kl_says_why_not() -> None:
    assert gradient(other((), outputs=5)).norm() > 0
    with pytest.raises(ModelError, match="share by name"):
        gradient(other((), outputs=5), kl=1.0)


def test_images_may_be_larger_than_the_client_model_takes() -> None:
    model = student()
    r_h = build_regularizer(
        settings(kl=1),
        model,
        pixels(channels=3, size=16),
        labels(),
        other(CLASSES),
        0,
        classes=CLASSES,
        preprocessing=GREY8,
    )
    assert r_h.gradient(model.vector.clone())[0].norm() > 0
