"""Architectures of the private model by name: the public ones, and image towers of open_clip."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ModelError
from common.models import build
from server_app.private.preprocessing import Preprocessing

OPEN_CLIP = "open_clip:"


class ClipClassifier(nn.Module):
    """An image tower of CLIP and a linear layer on its normalised embedding.

    With text embeddings of the class names as weights, this is the zero-shot classifier of
    Radford et al., "Learning transferable visual models from natural language supervision" (2021).
    """

    def __init__(self, visual: nn.Module, embedding: int, classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(embedding, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, 3, size, size) to logits (n, classes)."""
        embedding = self.visual(images)
        if isinstance(embedding, tuple):
            embedding = embedding[0]
        logits: Tensor = self.head(functional.normalize(embedding, dim=-1))
        return logits


def build_architecture(
    name: str, classes: int, preprocessing: Preprocessing, seed: int = 0
) -> nn.Module:
    """A freshly initialised classifier.

    Parameters
    ----------
    name: a public model, ``torchvision:NAME``, ``timm:NAME`` or ``open_clip:NAME``.

    Raises
    ------
    ModelError: no such architecture, or it cannot take such images.
    """
    if not name.startswith(OPEN_CLIP):
        return build(
            name,
            classes=classes,
            channels=preprocessing.channels,
            image_size=preprocessing.image_size,
            seed=seed,
        )
    if preprocessing.channels != 3:
        raise ModelError(f"{name} takes 3 channels, not {preprocessing.channels}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = create_clip(name.removeprefix(OPEN_CLIP), image_size=preprocessing.image_size)
        return ClipClassifier(clip.visual, clip_width(name.removeprefix(OPEN_CLIP)), classes)


def create_clip(name: str, weights: str | None = None, image_size: int | None = None) -> Any:
    """A model of open_clip with both towers; ``weights`` is a tag, a file, or None for random.

    Raises
    ------
    ModelError: open_clip knows no such model.
    """
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ModelError(f"open_clip has no model {name!r}; near: {', '.join(near) or 'none'}")
    return open_clip.create_model(
        name,
        pretrained=weights,
        pretrained_text=False,
        force_image_size=image_size,
        weights_only=True,
    )


def clip_width(name: str) -> int:
    """Width of the embedding that both towers of an open_clip model share."""
    import open_clip

    return int((open_clip.get_model_config(name) or {})["embed_dim"])
