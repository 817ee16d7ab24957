"""A loaded open_clip model: images and sentences to embeddings of length 1."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client_app.teachers.memory_budget import BATCH
from client_app.teachers.source import Source
from client_app.teachers.weights import foreign
from common.models import clip

log = logging.getLogger(__name__)

TELL_EVERY = 30.0
"""Seconds between two lines of progress in the log."""


class Clip:
    """One teacher in memory.

    Attributes
    ----------
    model: the open_clip model, in evaluation mode.
    scale: factor that its training learned for cosines, so that they are logits.
    prepare: turns pixels into what the model takes.
    """

    def __init__(self, source: Source, weights: Path) -> None:
        """Load it.

        Raises
        ------
        ModelError: the weights are damaged or of another architecture.
        """
        self.model: Any = source.create()
        try:
            clip.load(self.model, weights)
        except Exception as error:  # pickle, zip, key and shape errors have no common parent
            raise foreign(source, weights, error) from error
        self.scale = float(self.model.logit_scale.detach().exp())
        self._name = source.model
        self.prepare = preparation(source)

    def embed(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Embeddings of images, shape (n, e)."""
        with torch.inference_mode():
            return self.model.encode_image(self.prepare(pixels), normalize=True).float()

    def classifier(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """The mean direction of each class's sentences, shape (classes, e)."""
        return clip.text_classifier(self.model, self._name, texts)


def preparation(source: Source) -> Callable[[NDArray[np.uint8]], Tensor]:
    """The model's preprocessing: uint8 (n, 3, h, w) to float32 (n, 3, size, size)."""
    import open_clip
    from PIL import Image

    settings = open_clip.transform.PreprocessCfg(**source.preprocess)
    transform = open_clip.transform.image_transform_v2(settings, is_train=False)

    def prepare(pixels: NDArray[np.uint8]) -> Tensor:
        pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in pixels]
        return torch.stack([transform(picture) for picture in pictures])

    return prepare


def batches(positions: Sequence[int], title: str) -> Iterator[Sequence[int]]:
    """``positions`` in batches; progress is shown on a terminal, and logged elsewhere."""
    parts = [positions[i : i + BATCH] for i in range(0, len(positions), BATCH)]
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(parts, title, console=Console(stderr=True))
        return
    begun = told = time.monotonic()
    done = 0
    for part in parts:
        yield part
        done += len(part)
        now = time.monotonic()
        if now - told >= TELL_EVERY and done < len(positions):
            left = (now - begun) / done * (len(positions) - done)
            log.info(
                "%s: %d of %d images, about %s left", title, done, len(positions), _spoken(left)
            )
            told = now


def _spoken(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
