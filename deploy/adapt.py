"""Adapt a trained model to a folder of a few labelled images: what a new device does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch

from client_app.adapt import adapt, evaluate_personal, measure
from client_app.kept import apart
from common.config import DataSettings, parse
from common.data.client import ClientData, client_data
from common.data.folder import load_folder_split
from common.errors import ModelError
from common.files import write_atomic
from common.modelfile import Card, load_model
from deploy.export import format_of, written
from deploy.model_file import model_file, newcomer


@dataclass(frozen=True)
class Adapted:
    """What an adaptation gave.

    Attributes
    ----------
    support, query: number of images adapted on, and of others it was evaluated on.
    before, after: accuracy on the query images, from 0 to 1.
    path: the adapted model.
    """

    support: int
    query: int
    before: float
    after: float
    path: Path


def adapt_model(
    model_path: Path,
    folder: Path,
    out: Path,
    *,
    steps: int | None = None,
    alpha: float | None = None,
    support_fraction: float = 0.5,
    seed: int = 0,
) -> Adapted:
    """Adapt on part of a folder's images, evaluate on the rest, save the adapted model.

    Parameters
    ----------
    model_path: a model file, or the folder of a run, whose last model is meant; where its clients
        have models of their own, the device gets one in the way of the run's method.
    folder: one subfolder of images for each class; not every class has to be there.
    out: a file of AugFlower's own, or of ONNX or TorchScript if it ends in .onnx or .pt.
    steps, alpha: of gradient descent on the support images; by default what the model's card says.
        A model of one's own is made in ``steps``, and has no alpha.
    support_fraction: share of the images to adapt on.

    Raises
    ------
    ModelError: the model cannot be used, or diverges on these images; nothing is saved.
    DataError: the folder or an image cannot.
    """
    found = newcomer(model_path)
    if found is not None:
        card = found[1]
    else:
        model, buffers, card = load_model(model_file(model_path))
    wanted = {
        "name": "folder", "image-size": card.image_size, "channels": card.channels,
        "support-fraction": support_fraction, "seed": seed,
    }  # fmt: skip
    settings = parse(DataSettings, wanted, "--")
    images, split = load_folder_split(folder, card.classes, settings)
    data = client_data(replace(images, mean=card.mean, std=card.std), split)
    if found is not None:
        return _own(found, data, out, card.steps if steps is None else steps, alpha)
    theta = torch.tensor(model.parameters.vector)
    before, _ = measure(model, theta, data, card.statistics)
    model.load_buffers(buffers)
    alpha, steps = card.alpha if alpha is None else alpha, card.steps if steps is None else steps
    vector = adapt(model, theta, (data.support_images, data.support_labels), alpha, steps)
    after, loss = measure(model, vector, data, card.statistics)
    if not (torch.isfinite(vector).all() and math.isfinite(loss)):
        raise ModelError(
            f"{model_path} diverges on {folder} with alpha={alpha:g}, steps={steps}: its answers "
            f"are no longer finite; take a smaller alpha (its card says {card.alpha:g})"
        )
    model.load(vector)
    write_atomic(out, written(model.module, card, format_of(out)))
    return _adapted(data, before, after, out)


def _own(
    found: tuple[object, Card, ModuleType],
    data: ClientData,
    out: Path,
    steps: int,
    alpha: float | None,
) -> Adapted:
    """The model that a new client makes of what the run has sent it."""
    down, card, half = found
    if alpha is not None:
        raise ModelError(f"alpha has no part in how {card.method} makes a new client's model")
    device = apart(card, "target", data, card.architecture)
    evaluated = evaluate_personal(half.personal, down, device, steps)
    if not math.isfinite(evaluated.loss_after[0]):
        raise ModelError(f"the model diverges in {steps} steps of {card.method}; take fewer")
    module = half.personal(down, device, data, steps)
    write_atomic(out, written(module, card, format_of(out)))
    return _adapted(data, evaluated.correct_before[0], evaluated.correct_after[0], out)


def _adapted(data: ClientData, before: int, after: int, out: Path) -> Adapted:
    query = len(data.query_labels)
    return Adapted(len(data.support_labels), query, before / query, after / query, out)
