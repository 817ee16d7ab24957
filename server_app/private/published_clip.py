"""Zero-shot classifiers of open_clip: the class names' text embeddings become the last layer."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import ModelError
from server_app.private.architectures import (
    OPEN_CLIP,
    ClipClassifier,
    clip_width,
    create_clip,
)
from server_app.private.preprocessing import Preprocessing
from server_app.private.pretrained import PretrainedModel

_PROMPTS = ("a photo of a {}.", "a low resolution photo of a {}.", "a grayscale photo of a {}.")


def zero_shot(name: str, checkpoint: Path | None, classes: tuple[str, ...]) -> PretrainedModel:
    """A classifier of ``classes`` from a model with both towers.

    Parameters
    ----------
    name: ``ARCHITECTURE/TAG``, or ``ARCHITECTURE`` alone where a checkpoint is given.
    checkpoint: file with the weights of both towers.

    Raises
    ------
    ModelError: unknown, unreadable, or neither in the cache nor within reach.
    """
    architecture, _, tag = name.partition("/")
    clip = _from_file(architecture, checkpoint) if checkpoint else _from_tag(architecture, tag)
    architecture = _with_quick_gelu(architecture, tag)
    clip.eval()
    module = ClipClassifier(clip.visual, clip_width(architecture), len(classes))
    with torch.no_grad():
        module.head.weight.copy_(_text_weights(clip, architecture, classes))
    return PretrainedModel(OPEN_CLIP + architecture, module, classes, _preprocessing(clip))


def _from_file(architecture: str, checkpoint: Path) -> Any:
    try:
        return create_clip(architecture, str(checkpoint))
    except ModelError:
        raise
    # The library raises whatever its readers of many formats raise.
    except Exception as error:
        raise ModelError(
            f"{checkpoint} holds no weights of open_clip:{architecture}: {error}"
        ) from error


def _from_tag(architecture: str, tag: str) -> Any:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if architecture in open_clip.list_models() and tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:3]
        raise ModelError(
            f"open_clip:{architecture} has no weights {tag!r}; near: {', '.join(near) or 'none'}"
        )
    try:
        return create_clip(_with_quick_gelu(architecture, tag), tag)
    except ModelError:
        raise
    except Exception as error:
        config = open_clip.get_pretrained_cfg(architecture, tag)
        hub = str(config.get("hf_hub") or "").strip("/")
        place = f"https://huggingface.co/{hub}" if hub else config.get("url")
        raise ModelError(
            f"the weights of open_clip:{architecture}/{tag} are not here and cannot be fetched "
            f"({error}). Bring open_clip_model.safetensors from {place} and give "
            f"open_clip:{architecture}@FILE"
        ) from error


def _with_quick_gelu(architecture: str, tag: str) -> str:
    """Some tags were trained with another activation, for which open_clip has a model apart."""
    import open_clip

    other = f"{architecture}-quickgelu"
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    return other if config.get("quick_gelu") and other in open_clip.list_models() else architecture


def _text_weights(clip: Any, architecture: str, classes: tuple[str, ...]) -> Tensor:
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of open_clip:{architecture} is not here and cannot be fetched ({error})"
        ) from error
    weights = open_clip.build_zero_shot_classifier(clip, tokenizer, classes, _PROMPTS)
    return (weights * clip.logit_scale.exp()).T


def _preprocessing(clip: Any) -> Preprocessing:
    import open_clip

    config = open_clip.get_model_preprocess_cfg(clip)
    size = config["size"]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Preprocessing(len(mean), size if isinstance(size, int) else size[0], mean, std)
