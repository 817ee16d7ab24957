"""A classifier in two parts: a body, from images to features, and a head, from features to logits.

The head is the last linear layer of the classifier: of what timm's ``get_classifier`` names where
a network has that method, else of the whole network, in the order in which it declares its layers.
The body is all the rest. Of a network whose logits come from anything but one linear layer there
are no such parts.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from common.errors import ModelError

_NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def head_path(model: nn.Module) -> str:
    """Path of the head, as in ``named_modules``.

    Raises
    ------
    ModelError: there is no linear layer, or there are several heads.
    """
    named = getattr(model, "get_classifier", None)
    whole = model if named is None else named()
    if not isinstance(whole, nn.Module):
        raise ModelError(
            f"{type(model).__name__} has not one classifier but {type(whole).__name__}; a model "
            "with one linear layer before its logits is needed"
        )
    within = {id(layer) for layer in whole.modules() if isinstance(layer, nn.Linear)}
    paths = [path for path, layer in model.named_modules() if id(layer) in within]
    if not paths:
        raise ModelError(
            f"{type(model).__name__} has no linear layer to take features from; a model with one "
            "before its logits is needed"
        )
    return paths[-1]


def head(model: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits.

    Raises
    ------
    ModelError: see ``head_path``.
    """
    return model.get_submodule(head_path(model))  # type: ignore[return-value]


def feature_size(model: nn.Module) -> int:
    """Width f of the features, which are what the head takes."""
    return head(model).in_features


def split(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """Body and head over the model's own parameters; nothing is copied.

    For images x, ``head(body(x))`` is ``model(x)``, and ``body(x)`` has the shape (n, f). Whether
    they are in training mode is up to the model at this moment; after a change, split again.

    Raises
    ------
    ModelError: see ``head_path``.
    """
    path = head_path(model)
    *parents, last = path.split(".")
    body = inner = _twin(model)
    for name in parents:
        twin = _twin(inner.get_submodule(name))
        inner._modules[name] = twin
        inner = twin
    inner._modules[last] = nn.Flatten()
    return body, head(model)


def _twin(module: nn.Module) -> nn.Module:
    """The same layers and parameters in a module whose layers can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def replace_head(model: nn.Module, new: nn.Linear) -> None:
    """Put another linear layer in place of the head."""
    model.set_submodule(head_path(model), new)


def head_names(model: nn.Module) -> set[str]:
    """Names of the head's parameters, as in ``named_parameters``."""
    path = head_path(model)
    return {f"{path}.{name}" for name, _ in head(model).named_parameters()}


def body_names(model: nn.Module) -> set[str]:
    """Names of all parameters but the head's."""
    return {name for name, _ in model.named_parameters()} - head_names(model)


def top_names(model: nn.Module, layers: int) -> set[str]:
    """Names of the parameters of the last ``layers`` layers that have some, the head among them.

    Raises
    ------
    ModelError: see ``head_path``.
    """
    paths = [path for path, layer in model.named_modules() if [*layer.parameters(recurse=False)]]
    end = paths.index(head_path(model)) + 1
    top = paths[max(end - layers, 0) : end]
    return {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in top}


def norm_names(model: nn.Module) -> set[str]:
    """Names of the parameters of normalisation layers: batch, group, layer and instance."""
    return {
        f"{path}.{name}"
        for path, layer in model.named_modules()
        if isinstance(layer, _NORMALISATIONS)
        for name, _ in layer.named_parameters(recurse=False)
    }


def features_and_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The features, shape (n, f), and the logits, shape (n, classes); both carry gradients."""
    body, last = split(model)
    features: Tensor = body(images)
    return features, last(features)
