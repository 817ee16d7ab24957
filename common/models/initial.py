"""Weights that a network begins with: from a file, a folder, or a library's published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.models import clip, parts, zoo
from common.models.weights import read_weights
from common.tensorfile import parse

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NAMED = 4
_CLIP = "open_clip:"


def weights_of(name: str, source: str) -> dict[str, Tensor]:
    """The named tensors that ``pretrained-weights`` means for a model.

    Parameters
    ----------
    name: of the model, as ``build`` takes it.
    source: a file, a folder with one file of weights, or a tag of published weights.

    Raises
    ------
    ModelError: missing, unreadable or unknown.
    """
    path = weights_file(source)
    if path is None:
        return _published(name, source)
    weights = read_weights(path)
    # The model of a run is read by those who know its form, and its checksum.
    if any(each.startswith("model/") for each in weights):
        groups, _ = parse(path.read_bytes(), str(path))
        arrays = groups["model"].unpack() | groups["buffers"].unpack()
        return {each: torch.from_numpy(np.array(array)) for each, array in arrays.items()}
    if name.startswith(_CLIP):
        return _towers(weights)
    return weights


def weights_file(source: str) -> Path | None:
    """The file that ``pretrained-weights`` names; None if it is a tag.

    Raises
    ------
    ModelError: a folder with no file of weights, or several.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES]
        safe = [file for file in found if file.suffix == ".safetensors"] or found
        if len(safe) != 1:
            told = ", ".join(file.name for file in safe) or "none"
            raise ModelError(f"{path} must have one file of weights, and has {told}: name the file")
        return safe[0]
    return path if path.suffix in _SUFFIXES or len(path.parts) > 1 else None


def absolute(source: str) -> str:
    """``pretrained-weights`` as it can be found from any folder of this machine."""
    return str(Path(source).expanduser().absolute()) if weights_file(source) else source


def copy_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> list[str]:
    """Copy all tensors but those of a first convolution or a head of another shape.

    A first convolution for grey images takes the sum over the colours, which is exact for images
    whose colours are equal. One of another kernel size, such as that of ``resnet18`` for small
    images, and a head of another number of classes stay as they are.

    Returns the names of the tensors that were not copied.

    Raises
    ------
    ModelError: anything else is missing or of another shape: these are weights of another model.
    """
    head = f"{parts.head_path(module)}."
    stem = f"{_first_convolution(module)}."
    given = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    kept, wrong = [], []
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            source = _fitting(given.get(name), tensor)
            if source is not None:
                tensor.copy_(source)
            elif name.startswith((head, stem)):
                kept.append(name)
            elif not name.endswith("num_batches_tracked"):  # which older files do not hold
                wrong.append(f"{name} {tuple(tensor.shape)}")
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ModelError(
            f"pretrained-weights={where} are not weights of this model: there is no "
            f"{', '.join(wrong[:_NAMED])}{more}. Give the file of its own architecture"
        )
    return kept


def _published(name: str, tag: str) -> dict[str, Tensor]:
    otherwise = "name that file as pretrained-weights"
    library, _, rest = name.rpartition(":")
    if library == "timm":
        return zoo.published_weights(f"timm:{rest.partition('/')[0]}.{tag}", otherwise)
    if library == "open_clip":
        clip.check_names(rest, tag)
        model = clip.create(rest)
        clip.load(model, clip.public_weights(rest, tag, otherwise))
        return {f"tower.{part}": tensor for part, tensor in model.visual.state_dict().items()}
    network = rest if library in ("", "torchvision") else ""
    if not _is_torchvision(network):
        raise ModelError(
            f"pretrained-weights={tag}: torchvision publishes none for model {name!r}; give "
            "a file, or take mobilenet_v2, efficientnet_b0, resnet18 or torchvision:NAME"
        )
    return zoo.published_weights(f"torchvision:{network}/{tag}", otherwise)


def _towers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model with an image tower alone, or with both towers, as ``build`` names them."""
    tower = {name: tensor for name, tensor in weights.items() if name.startswith("visual.")}
    if not tower:
        return dict(weights)
    head = {name: tensor for name, tensor in weights.items() if name.startswith("head.")}
    return {name.replace("visual.", "tower.", 1): each for name, each in tower.items()} | head


def _is_torchvision(network: str) -> bool:
    from torchvision import models

    return network in models.list_models(module=models)


def _first_convolution(module: nn.Module) -> str:
    named = module.named_modules()
    return next((name for name, layer in named if isinstance(layer, nn.Conv2d)), "")


def _fitting(source: Tensor | None, tensor: Tensor) -> Tensor | None:
    if source is None or source.shape == tensor.shape:
        return source
    colours = (*source.shape[:1], 1, *source.shape[2:])
    if source.ndim == 4 and source.shape[1] == 3 and tensor.shape == colours:
        return source.sum(1, keepdim=True)
    return None
