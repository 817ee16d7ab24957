"""CLIP models of open_clip by name: two towers, public weights, preprocessing, zero-shot heads.

Devices have them as teachers, the server as a private model. open_clip is imported when it is
needed: not every machine has it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ModelError, unknown_model

_HUB = "https://huggingface.co"


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


def check_names(model: str, tag: str = "") -> None:
    """Refuse an architecture, or a tag of its public weights, that open_clip does not know.

    Raises
    ------
    ModelError: with the names that are near.
    """
    import open_clip

    if model not in (known := open_clip.list_models()):
        raise unknown_model(f"open_clip has no model {model!r}", model, known)
    if tag and not open_clip.pretrained.is_pretrained_cfg(model, tag):
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise unknown_model(f"open_clip:{model} has no weights {tag!r}", tag, tags)


def create(
    model: str, *, device: str = "cpu", quick_gelu: bool = False, image_size: int | None = None
) -> Any:
    """A model with both towers and random weights; on the device "meta" it takes no memory.

    Parameters
    ----------
    model: open_clip's name, ``local-dir:FOLDER`` or ``hf-hub:REPOSITORY``.
    quick_gelu: whether its weights were trained with that activation.
    """
    import open_clip

    # open_clip warns that the model is random; its weights come next.
    root = logging.getLogger()
    root.addFilter(_is_no_warning)
    try:
        return open_clip.create_model(
            model,
            load_weights=False,
            device=device,
            force_quick_gelu=quick_gelu,
            force_image_size=image_size,
            pretrained_text=False,
        )
    finally:
        root.removeFilter(_is_no_warning)


def _is_no_warning(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING


def width(model: str) -> int:
    """Width e of the embedding that both towers share."""
    import open_clip

    return int((open_clip.get_model_config(model) or {})["embed_dim"])


def with_activation(model: str, tag: str) -> str:
    """Some tags were trained with another activation, for which open_clip has a model apart."""
    import open_clip

    other = f"{model}-quickgelu"
    config = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    return other if config.get("quick_gelu") and other in open_clip.list_models() else model


def public_weights(model: str, tag: str, otherwise: str) -> Path:
    """The file of a tag's weights, fetched once.

    Parameters
    ----------
    otherwise: what the reader of an error can do with the file, if brought by hand.

    Raises
    ------
    ModelError: neither in the cache nor within reach.
    """
    import open_clip

    config = open_clip.get_pretrained_cfg(model, tag)
    hub = str(config.get("hf_hub") or "").strip("/")
    place = f"{_HUB}/{hub}" if hub else config.get("url", "")
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # no network, no such repository, no space: no common parent
        raise _not_here(f"open_clip:{model}/{tag}", place, otherwise, error) from error


def repository_weights(name: str, otherwise: str) -> Path:
    """The file of the weights in a public repository, as ``public_weights``."""
    import open_clip

    try:
        return Path(open_clip.pretrained.download_pretrained_from_hf(name))
    except Exception as error:
        raise _not_here(name, f"{_HUB}/{name}", otherwise, error) from error


def _not_here(name: str, place: str, otherwise: str, error: Exception) -> ModelError:
    return ModelError(
        f"the weights of {name} are not here and cannot be fetched ({str(error)[:200]}). Bring "
        f"open_clip_model.safetensors or open_clip_pytorch_model.bin from {place} and {otherwise}"
    )


def load(model: Any, weights: Path) -> None:
    """Load a checkpoint of any layout that open_clip knows; it raises what its readers raise."""
    import open_clip

    open_clip.load_checkpoint(model, str(weights))
    model.eval()


def preprocessing(
    config: Mapping[str, Any], tag: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """open_clip's settings of the images; ``size`` is their height and width, pixels.

    Parameters
    ----------
    config: architecture of the model, as open_clip's JSON.
    tag: what is known of its public weights; may be empty.
    own: what comes with a model of a folder or a repository; may be empty.
    """
    import open_clip

    merged = open_clip.transform.PreprocessCfg()
    for part in (own, tag):
        merged = open_clip.transform.merge_preprocess_dict(merged, dict(part))
    size = config["vision_cfg"]["image_size"]
    merged["size"] = max(size) if isinstance(size, list | tuple) else int(size)
    return dict(json.loads(json.dumps(merged)))


def text_classifier(model: Any, name: str, texts: Sequence[Sequence[str]]) -> Tensor:
    """The mean direction of each class's sentences, shape (classes, e).

    Raises
    ------
    ModelError: the tokenizer is not here and cannot be fetched.
    """
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of open_clip:{name} is not here and cannot be fetched "
            f"({str(error)[:200]}); bring its files, or take a model with CLIP's own tokenizer, "
            "such as ViT-B-32"
        ) from error
    with torch.inference_mode():
        rows = [
            model.encode_text(tokenizer(list(sentences)), normalize=True).float().mean(0)
            for sentences in texts
        ]
    return functional.normalize(torch.stack(rows), dim=1).clone()
