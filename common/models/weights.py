"""Weights in files: safetensors, and PyTorch's own format without its pickled objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from common.errors import ModelError

_NAMED = 4


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, .safetensors or PyTorch.

    Raises
    ------
    ModelError: missing, torn, or holding more than tensors.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}: not a file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    # A torn file makes the readers fail in many ways.
    except Exception as error:
        raise ModelError(
            f"checkpoint {path} cannot be read: {_first_line(error)}. Give a .safetensors file, "
            "or a PyTorch file that holds nothing but a state_dict of tensors"
        ) from error
    return _state_dict(content, path)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy named tensors into ``module``, all of them and no others.

    Raises
    ------
    ModelError: names or shapes differ; the first of each are named.
    """
    own = module.state_dict()
    given = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    problems = [
        _some("missing", sorted(own.keys() - given.keys())),
        _some("unknown", sorted(given.keys() - own.keys())),
        _some(
            "of another shape",
            [
                f"{name} {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
                for name in own
                if name in given and given[name].shape != own[name].shape
            ],
        ),
    ]
    text = "; ".join(problem for problem in problems if problem)
    if text:
        raise ModelError(f"the weights of {where} do not fit its architecture: {text}")
    module.load_state_dict(given)


def weights_bytes(module: nn.Module) -> bytes:
    """Parameters and buffers as the content of a .safetensors file."""
    # Clones, because safetensors refuses tensors that share memory.
    state = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    return safetensors.torch.save(state)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and values of all weights, hexadecimal."""
    return digest(module.state_dict())


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values, hexadecimal."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        array = tensor.detach().contiguous()
        found.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        found.update(array.reshape(-1).view(torch.uint8).numpy(force=True).data)
    return found.hexdigest()


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
        tensors = {str(name): t for name, t in content.items() if isinstance(t, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
    raise ModelError(f"checkpoint {path} is no state_dict: it must map names to tensors")


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{what}: {', '.join(names[:_NAMED])}{more}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
