"""Weights that torchvision and timm publish, with their class names and preprocessing."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor

from common.errors import ModelError
from server_app.private.architectures import build_architecture
from server_app.private.preprocessing import Preprocessing
from server_app.private.pretrained import PretrainedModel
from server_app.private.weights import load_weights


def published(source: str) -> PretrainedModel:
    """A model with its published weights, from the library's cache or the network.

    Parameters
    ----------
    source: ``torchvision:NAME``, ``torchvision:NAME/TAG`` or ``timm:NAME[.TAG]``.

    Raises
    ------
    ModelError: unknown, or neither in the cache nor within reach; says which file to bring.
    """
    library, _, rest = source.partition(":")
    return _torchvision(rest) if library == "torchvision" else _timm(rest)


def recipe(source: str) -> tuple[tuple[str, ...], Preprocessing]:
    """Class names, empty where unknown, and preprocessing of a model of torchvision or timm."""
    library, _, rest = source.partition(":")
    if library == "torchvision":
        weights = _torchvision_weights(rest)
        return tuple(weights.meta["categories"]), _torchvision_preprocessing(weights)
    config = _timm_config(rest)
    return _timm_classes(config), _timm_preprocessing(config)


def torchvision_state(rest: str, otherwise: str) -> dict[str, Tensor]:
    """The tensors of ``NAME`` or ``NAME/TAG``, from torch's cache or the network.

    Parameters
    ----------
    otherwise: what the reader of an error can do instead of bringing the file to the cache.

    Raises
    ------
    ModelError: unknown, or neither in the cache nor within reach; says which file to bring.
    """
    weights = _torchvision_weights(rest)
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    # Any kind of error may come out of the network, and out of a torn file in the cache.
    except Exception as error:
        raise ModelError(
            f"the weights of torchvision:{rest} are not here and cannot be fetched ({error}). "
            f"Bring {weights.url} to {torch.hub.get_dir()}/checkpoints/"
            f"{weights.url.rpartition('/')[2]}, or {otherwise}"
        ) from error


def _torchvision(rest: str) -> PretrainedModel:
    name = rest.partition("/")[0]
    state = torchvision_state(rest, f"give torchvision:{name}@FILE")
    classes, preprocessing = recipe(f"torchvision:{rest}")
    module = build_architecture(f"torchvision:{name}", len(classes), preprocessing)
    load_weights(module, state, f"torchvision:{rest}")
    return PretrainedModel(f"torchvision:{name}", module, classes, preprocessing)


def _torchvision_weights(rest: str) -> Any:
    from torchvision import models

    name, _, tag = rest.partition("/")
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ModelError(f"torchvision has no model {name!r}; near: {', '.join(near) or 'none'}")
    tags = models.get_model_weights(name)
    if not tag:
        return tags.DEFAULT
    if tag not in tags.__members__:
        raise ModelError(
            f"torchvision:{name} has no weights {tag!r}; it has {', '.join(tags.__members__)}"
        )
    return tags[tag]


def _torchvision_preprocessing(weights: Any) -> Preprocessing:
    transform = weights.transforms()
    return Preprocessing(3, transform.crop_size[0], tuple(transform.mean), tuple(transform.std))


def _timm(name: str) -> PretrainedModel:
    import timm

    config = _timm_config(name)
    try:
        module = timm.create_model(name, pretrained=True)
    except Exception as error:
        place = f"https://huggingface.co/{config.get('hf_hub_id')}"
        raise ModelError(
            f"the weights of timm:{name} are not here and cannot be fetched ({error}). "
            f"Bring model.safetensors from {place} and give timm:{name}@FILE"
        ) from error
    return PretrainedModel(
        f"timm:{name}", module, _timm_classes(config), _timm_preprocessing(config)
    )


def _timm_config(name: str) -> dict[str, Any]:
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        raise ModelError(f"timm has no model {name!r}; near: {', '.join(near) or 'none'}")
    base, _, tag = name.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=3) or tags[:3]
        raise ModelError(f"timm:{base} has no weights {tag!r}; near: {', '.join(near) or 'none'}")
    config = timm.get_pretrained_cfg(name)
    return config.to_dict() if config else {}  # type: ignore[no-untyped-call]


def _timm_classes(config: dict[str, Any]) -> tuple[str, ...]:
    from timm.data.imagenet_info import ImageNetInfo

    if config.get("label_names"):
        return tuple(config["label_names"])
    if config.get("num_classes") != 1000:
        return ()
    # The first of each class's synonyms, which is also torchvision's choice.
    return tuple(text.partition(",")[0] for text in ImageNetInfo().label_descriptions())


def _timm_preprocessing(config: dict[str, Any]) -> Preprocessing:
    channels, size, _ = config["input_size"]
    return Preprocessing(channels, size, tuple(config["mean"]), tuple(config["std"]))
