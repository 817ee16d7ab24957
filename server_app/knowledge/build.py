"""From settings, images and a private model to the regularizer R_h."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from common.errors import DataError, ModelError, SettingsError
from common.models import FlatModel, parts
from common.models.preprocessing import Preprocessing
from server_app.knowledge.features import TeacherOutputs, teacher_outputs
from server_app.knowledge.regularizer import Regularizer, ServerSet
from server_app.knowledge.settings import KnowledgeSettings
from server_app.knowledge.terms.batch import Term
from server_app.knowledge.terms.crd import ContrastiveDistillation
from server_app.knowledge.terms.cross_entropy import CrossEntropy
from server_app.knowledge.terms.kl import KullbackLeibler
from server_app.knowledge.terms.squared_distance import SquaredDistance
from server_app.knowledge.terms.tasks import TaskShape, TaskTransfer
from server_app.private.images import as_labels, as_pixels
from server_app.private.pretrained import PretrainedModel


def build_regularizer(
    settings: KnowledgeSettings,
    model: FlatModel,
    server_images: NDArray[np.uint8] | Tensor,
    server_labels: NDArray[np.int64] | Tensor | None,
    pretrained: PretrainedModel | None,
    seed: int,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    cache: Path | None = None,
    center: Tensor | None = None,
    tasks: TaskShape | None = None,
    console: Console | None = None,
) -> Regularizer:
    """R_h for a client model, on the server's own set D_s.

    Parameters
    ----------
    server_images: uint8, shape (n, c, h, w); at the best resolution there is.
    server_labels: shape (n,), in the order of ``classes``; None where D_s is unlabelled.
    pretrained: the private model; None if neither KL nor CRD is wanted.
    classes: names, in the order of the client model's logits.
    preprocessing: of the client model.
    cache: folder that keeps the private model's outputs; None keeps none.
    center: theta_c of the squared distance, shape (d,).
    tasks: what a client's task looks like; needed by the tasks term.

    Raises
    ------
    SettingsError: no term has a weight, or one lacks what it needs.
    ModelError, DataError: the private model or D_s cannot serve a term.
    """
    pixels = as_pixels(server_images)
    labels = None
    if server_labels is not None and settings.labelled:
        labels = as_labels(server_labels, len(pixels), len(classes))
    if parts.head(model.module).out_features != len(classes):
        raise DataError(
            f"the client model has {parts.head(model.module).out_features} outputs, but the "
            f"server's set {len(classes)} classes"
        )
    teacher: TeacherOutputs | None = None
    if settings.kl or settings.crd or settings.tasks:
        if pretrained is None:
            raise ModelError(
                "the terms kl, crd and tasks need a private model; name one, or set "
                "knowledge.kl=0, knowledge.crd=0 and knowledge.tasks=0"
            )
        teacher = teacher_outputs(pretrained, pixels, cache, console)
    terms: dict[str, tuple[float, Term]] = {}
    if settings.cross_entropy and labels is not None:
        terms["cross_entropy"] = settings.cross_entropy, CrossEntropy()
    if settings.kl and pretrained is not None:
        kl = KullbackLeibler(classes, pretrained.classes, settings.kl_temperature)
        terms["kl"] = settings.kl, kl
    if settings.crd and teacher is not None:
        terms["crd"] = settings.crd, _crd(settings, model, labels, teacher, seed)
    if settings.tasks and pretrained is not None and tasks is not None:
        held = None if labels is None else set(labels.tolist())
        adapted = TaskTransfer(model, classes, pretrained.classes, tasks, held)
        terms["tasks"] = settings.tasks, adapted
    if settings.squared_distance:
        terms["squared_distance"] = settings.squared_distance, _distance(model, center)
    if not terms:
        raise SettingsError(
            "R_h has no term: give knowledge.kl, knowledge.crd, knowledge.tasks or "
            "knowledge.squared-distance a weight, or knowledge.cross-entropy together with labels "
            "of the server's set"
        )
    images = ServerSet(pixels, labels, preprocessing)
    return Regularizer(settings, model, images, teacher, terms, seed)


def _crd(
    settings: KnowledgeSettings,
    model: FlatModel,
    labels: Tensor | None,
    teacher: TeacherOutputs,
    seed: int,
) -> ContrastiveDistillation:
    return ContrastiveDistillation(
        settings,
        images=len(teacher.features),
        labels=labels,
        student_width=parts.feature_size(model.module),
        teacher_width=teacher.features.shape[1],
        seed=seed,
    )


def _distance(model: FlatModel, center: Tensor | None) -> SquaredDistance:
    if center is None:
        raise SettingsError(
            "knowledge.squared-distance needs parameters to measure from; give a model as "
            "theta_c, or set it to 0"
        )
    if center.shape != model.vector.shape or not bool(torch.isfinite(center).all()):
        raise ModelError(
            f"theta_c must be {model.vector.numel()} finite parameters, as the client model has, "
            f"not shape {tuple(center.shape)}"
        )
    return SquaredDistance(center)
