"""Small images, models and batches for the tests of R_h."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.models import FlatModel, build
from common.models.preprocessing import Preprocessing
from server_app.knowledge.build import build_regularizer
from server_app.knowledge.regularizer import Regularizer
from server_app.knowledge.settings import KnowledgeSettings
from server_app.knowledge.terms.tasks import TaskShape
from server_app.private.pretrained import PretrainedModel

CLASSES = ("circle", "square", "star")
GREY8 = Preprocessing(1, 8, (0.5,), (0.25,))
IMAGES = 24


def pixels(count: int = IMAGES, channels: int = 1, size: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def labels(count: int = IMAGES) -> Tensor:
    return torch.arange(count) % len(CLASSES)


def settings(**values: object) -> KnowledgeSettings:
    return KnowledgeSettings.model_validate(
        {"batch_size": 8, "negatives": 32, "feature_dim": 6, **values}
    )


def teacher(classes: tuple[str, ...] = CLASSES, seed: int = 1) -> PretrainedModel:
    module = build("cnn-small", classes=len(classes), channels=1, image_size=8, seed=seed)
    return PretrainedModel("cnn-small", module, classes, GREY8)


def student(name: str = "cnn-tiny") -> FlatModel:
    return FlatModel(build(name, classes=len(CLASSES), channels=1, image_size=8))


def regularizer(
    model: FlatModel | None = None,
    pretrained: PretrainedModel | None = None,
    images: Tensor | None = None,
    **values: object,
) -> Regularizer:
    center = torch.full_like((model or student()).vector, 0.01)
    return build_regularizer(
        settings(**values),
        model or student(),
        pixels() if images is None else images,
        labels(),
        pretrained or teacher(),
        seed=3,
        classes=CLASSES,
        preprocessing=GREY8,
        center=center,
        tasks=TaskShape(2, 0.5, 0.3),
    )


def double_student(name: str = "cnn-tiny") -> nn.Module:
    return build(name, classes=len(CLASSES), channels=1, image_size=8).double()


def noise(*shape: int, seed: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))
