"""The model that a run starts from: freshly initialised, or with published or local weights,
such as those that another run has ended with.

Devices get it over the wire; none of them fetches anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config import RunSettings
from common.errors import ModelError
from common.modelfile import load_model
from common.models import FlatModel, build, parts, zoo
from common.models.weights import read_weights

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NAMED = 4


def initial_model(
    settings: RunSettings, classes: int, notice: Callable[[str], None] = lambda _: None
) -> FlatModel:
    """Build the run's model and start it as ``pretrained-weights`` says.

    Raises
    ------
    ModelError: no such model or tag, or weights that are missing, unreadable or do not fit.
    """
    data, source = settings.data, settings.pretrained_weights
    module = build(
        settings.model, classes=classes, channels=data.channels, image_size=data.image_size,
        seed=settings.seed,
    )  # fmt: skip
    if source:
        kept = copy_weights(module, _read(settings.model, source), source)
        own = f"; its own initialisation keeps {', '.join(kept)}" if kept else ""
        notice(f"{settings.model} starts from {source}{own}")
    return FlatModel(module)


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


def _read(name: str, source: str) -> dict[str, Tensor]:
    if Path(source).suffix in _SUFFIXES or len(Path(source).parts) > 1:
        path = Path(source).expanduser()
        weights = read_weights(path)
        # The model of a run is read by those who know its form, and its checksum.
        own = any(name.startswith("model/") for name in weights)
        return dict(load_model(path)[0].module.state_dict()) if own else weights
    library, _, rest = name.rpartition(":")
    network = rest if library in ("", "torchvision") else ""
    if not _is_torchvision(network):
        raise ModelError(
            f"pretrained-weights={source}: torchvision publishes none for model {name!r}; give "
            "a file, or take mobilenet_v2, efficientnet_b0, resnet18 or torchvision:NAME"
        )
    return zoo.published_weights(
        f"torchvision:{network}/{source}", "name that file as pretrained-weights"
    )


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
