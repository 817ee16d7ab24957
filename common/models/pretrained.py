"""Start a model from torchvision's ImageNet weights."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from common.errors import ModelError


def load_imagenet(module: nn.Module, name: str) -> list[str]:
    """Copy torchvision's ImageNet weights into ``module``, in place.

    Every tensor of the same shape is copied. A first convolution with fewer input channels takes
    the sum over the colours, which is exact for grey images; one of another kernel size, and a
    head of another number of classes, stay as they are initialised.

    Parameters
    ----------
    name: the model's name, as for ``build``.

    Returns the names of the tensors that were not copied.

    Raises
    ------
    ModelError: torchvision has no such weights, or they are not here and cannot be fetched.
    """
    weights = _read(name.removeprefix("torchvision:"), name)
    kept = []
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            source = _fitting(weights.get(key), tensor)
            if source is None:
                kept.append(key)
            else:
                tensor.copy_(source)
    return kept


def _fitting(source: Tensor | None, tensor: Tensor) -> Tensor | None:
    if source is None or source.shape == tensor.shape:
        return source
    if (
        source.ndim == 4
        and tensor.shape[1] == 1
        and source.shape[0] == tensor.shape[0]
        and source.shape[1] == 3
        and source.shape[2:] == tensor.shape[2:]
    ):
        return source.sum(1, keepdim=True)
    return None


def _read(name: str, asked: str) -> dict[str, Tensor]:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ModelError(
            f"there are no ImageNet weights for model {asked!r}: start it from its own "
            "initialisation, or take resnet18, mobilenet_v2, efficientnet_b0 or torchvision:NAME"
        )
    url = models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash(path), progress=True)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # pickle, zip, network and hash errors have no common parent
        raise ModelError(
            f"the ImageNet weights of {name} cannot be had ({type(error).__name__}: {error}); "
            f"bring {url} to {path}"
        ) from error


def _hash(path: Path) -> str:
    """The start of the file's SHA-256, which torchvision writes into its name."""
    return path.stem.rpartition("-")[2]
