"""Training a private model on the server's own images: what ``augflower pretrain`` does."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from common.data.crop import crop
from common.errors import DataError, ModelError
from common.models import parts
from common.models.preprocessing import Preprocessing
from server_app.private.images import as_labels, as_pixels
from server_app.private.pretrained import CARD, PretrainedModel, build_architecture
from server_app.private.seen import Seen
from server_app.private.settings import PretrainSettings

_EVALUATION_BATCH = 256


@dataclass(frozen=True, eq=False)
class _Part:
    """Images and labels of one part."""

    pixels: Tensor
    labels: Tensor


def pretrain(
    start: str | PretrainedModel,
    folder: Path,
    images: NDArray[np.uint8] | Tensor,
    labels: NDArray[np.int64] | Tensor,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    seen: tuple[Seen, ...] = (),
    settings: PretrainSettings | None = None,
    seed: int = 0,
    replace: bool = False,
    console: Console | None = None,
) -> PretrainedModel:
    """Train a private model, keep its best epoch on held-out images in ``folder``, and return it.

    The folder is whole after each epoch that was the best so far, so an interrupted training
    leaves a model. The same seed on the same machine gives the same weights.

    Parameters
    ----------
    start: an architecture by name, trained from random weights, or a model to go on from. The
        latter keeps its own preprocessing; its last layer is replaced if its classes differ.
    images, labels: uint8 (n, c, h, w) and integers (n,) in the order of ``classes``.
    preprocessing: of the new model, where ``start`` is a name.
    seen: what the card says of ``images``, and of those that ``start`` was trained on.
    replace: whether a model that ``folder`` already holds may be overwritten.
    console: where progress is shown; standard error by default.

    Raises
    ------
    ModelError: unknown architecture, images that it cannot take, a folder that is in use, or a
        training that diverges.
    DataError: images or labels are not what they must be, or too few to hold some out.
    """
    settings = settings or PretrainSettings.model_validate({})
    console = console or Console(stderr=True, markup=False, emoji=False)
    if (folder / CARD).exists() and not replace:
        raise ModelError(
            f"{folder} already holds a private model; choose another folder, or ask to replace it"
        )
    pixels = as_pixels(images)
    part = _Part(pixels, as_labels(labels, len(pixels), len(classes)))
    training, validation = _split(part, settings.validation_fraction, seed)
    model = dataclasses.replace(_start(start, tuple(classes), preprocessing, seed), seen=seen)
    size = sum(p.numel() for p in model.module.parameters())
    console.print(
        f"Training {model.architecture}, {size:,} parameters, on {len(training.labels):,} images "
        f"of {len(classes)} classes; {len(validation.labels):,} held out"
    )
    # Dropout draws from the global state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        accuracy = _train(model, training, validation, settings, seed, folder, console)
    console.print(f"Validation accuracy {accuracy:.2%}; the model is in {folder}", soft_wrap=True)
    return PretrainedModel.load(folder)


def _start(
    start: str | PretrainedModel,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    seed: int,
) -> PretrainedModel:
    if isinstance(start, str):
        module = build_architecture(start, len(classes), preprocessing, seed)
        return PretrainedModel(start, module, classes, preprocessing)
    module = copy.deepcopy(start.module)
    if start.classes != classes:
        old = parts.head(module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            new = nn.Linear(old.in_features, len(classes), bias=old.bias is not None)
        parts.replace_head(module, new)
    return PretrainedModel(start.architecture, module, classes, start.preprocessing)


def _split(part: _Part, fraction: float, seed: int) -> tuple[_Part, _Part]:
    """Training and validation images; of each class the same share, rounded down."""
    random = np.random.default_rng(seed)
    labels = part.labels.numpy()
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held[members[: int(len(members) * fraction)]] = True
    if not held.any():
        raise DataError(
            f"no class has enough images to hold out {fraction:.0%} of them; give more images or "
            "raise the validation fraction"
        )
    out = torch.from_numpy(held)
    return (
        _Part(part.pixels[~out], part.labels[~out]),
        _Part(part.pixels[out], part.labels[out]),
    )


def _train(
    model: PretrainedModel,
    training: _Part,
    validation: _Part,
    settings: PretrainSettings,
    seed: int,
    folder: Path,
    console: Console,
) -> float:
    """Train, writing each best epoch to ``folder``; the best validation accuracy."""
    # Convolutions on CPUs are up to twice as fast with channels last.
    module = model.module.requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = max(1, len(training.labels) // settings.batch_size)
    steps = settings.epochs * batches
    optimizer = _optimizer(module, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best = (-1.0, 0.0)
    with _progress(console) as progress:
        task = progress.add_task("training", total=steps)
        for epoch in range(settings.epochs):
            module.train()
            loss = 0.0
            for pixels, labels in _batches(training, settings, seed, epoch):
                logits = _logits(model, pixels)
                value = functional.cross_entropy(
                    logits, labels, label_smoothing=settings.label_smoothing
                )
                optimizer.zero_grad()
                torch.autograd.backward(value)
                optimizer.step()
                schedule.step()
                loss += float(value.detach()) / batches
                progress.advance(task)
            if not np.isfinite(loss):
                raise ModelError(
                    f"training diverged in epoch {epoch + 1}; lower the learning rate, now "
                    f"{settings.learning_rate:g}"
                )
            score = _evaluate(model, validation)
            mark = ""
            if score > best:
                best, mark = score, "  best so far"
                dataclasses.replace(model, module=copy.deepcopy(module), accuracy=score[0]).save(
                    folder
                )
            progress.console.print(
                f"epoch {epoch + 1}/{settings.epochs}  loss {loss:.4f}  "
                f"validation {score[0]:.2%}{mark}"
            )
    return best[0]


def _optimizer(module: nn.Module, settings: PretrainSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            module.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
    return torch.optim.SGD(
        module.parameters(),
        settings.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )


def _batches(
    part: _Part, settings: PretrainSettings, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order; a last, smaller batch is left out, unless it is the only one."""
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    )
    count = len(part.labels)
    order = torch.randperm(count, generator=generator)
    size = min(settings.batch_size, count)
    for start in range(0, count - size + 1, size):
        chosen = order[start : start + size]
        yield (
            crop(part.pixels[chosen], settings.augment, generator, "constant"),
            part.labels[chosen],
        )


def _logits(model: PretrainedModel, pixels: Tensor) -> Tensor:
    logits = model.module(model.preprocessing(pixels))
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"{model.architecture} gives more than logits in training; choose another model"
        )
    return logits


@torch.no_grad()
def _evaluate(model: PretrainedModel, part: _Part) -> tuple[float, float]:
    """Accuracy, and minus the loss for ties."""
    model.module.eval()
    correct = loss = 0.0
    for pixels, labels in zip(
        torch.split(part.pixels, _EVALUATION_BATCH),
        torch.split(part.labels, _EVALUATION_BATCH),
        strict=True,
    ):
        logits = _logits(model, pixels)
        correct += float((logits.argmax(1) == labels).sum())
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
    return correct / len(part.labels), -loss / len(part.labels)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
