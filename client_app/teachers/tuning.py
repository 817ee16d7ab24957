"""Fine-tune a teacher on the device's own labelled images: its head, or all of its image tower.

Both start from the zero-shot classifier. What comes out are embeddings and a classifier, like
those of a teacher that was not tuned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from client_app.batches import epoch
from client_app.teachers.clip import Clip, batches
from client_app.teachers.memory_budget import BATCH
from client_app.teachers.settings import TeacherSettings

log = logging.getLogger(__name__)

LEARNING_RATE = {"head": 1e-3, "full": 1e-5}


def tune_head(
    settings: TeacherSettings, embeddings: Tensor, labels: Tensor, classifier: Tensor, scale: float
) -> Tensor:
    """A classifier, shape (classes, e), fitted to embeddings of shape (n, e) by Adam."""
    weight = classifier.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], settings.tuning_lr or LEARNING_RATE["head"])
    generator = torch.Generator().manual_seed(0)
    for _ in range(settings.tuning_epochs):
        for images, answers in epoch(embeddings, labels, 32, generator):
            optimizer.zero_grad()
            loss = F.cross_entropy(scale * images @ weight.T, answers)
            torch.autograd.backward(loss)
            optimizer.step()
    return weight.detach()


def tune_full(
    settings: TeacherSettings,
    clip: Clip,
    pixels: NDArray[np.uint8],
    labels: Tensor,
    classifier: Tensor,
) -> Tensor:
    """Fit the image tower in place, together with the classifier that is returned."""
    weight = classifier.clone().requires_grad_()
    tower = list(clip.model.visual.parameters())
    rate = settings.tuning_lr or LEARNING_RATE["full"]
    # One parameter after the other: all at once would take their memory once more.
    optimizer = torch.optim.Adam([weight, *tower], rate, foreach=False)
    generator = torch.Generator().manual_seed(0)
    for turn in range(settings.tuning_epochs):
        order: Sequence[int] = torch.randperm(len(labels), generator=generator).tolist()
        total = 0.0
        for chosen in batches(order, f"tuning, epoch {turn + 1}/{settings.tuning_epochs}"):
            optimizer.zero_grad()
            # The tower stays in evaluation mode: batches of 8 are too few for BatchNorm.
            embeddings = clip.model.encode_image(clip.prepare(pixels[chosen]), normalize=True)
            loss = F.cross_entropy(clip.scale * embeddings @ weight.T, labels[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach()) * min(BATCH, len(chosen))
        log.info("tuning, epoch %d: loss %.4f", turn + 1, total / len(labels))
    return weight.detach()
