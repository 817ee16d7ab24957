"""Features and logits of the private model on D_s, computed once and kept on disk.

What is kept belongs to the images as they are, without random views. The name of the file is the
hash of the model's weights, of its architecture and preprocessing, and of the images: whatever
changes, the old file is no longer found. Each file carries its key and a hash of its values.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from common.files import OWN, write_atomic
from server_app.private.pretrained import PretrainedModel

_BATCH = 64


@dataclass(frozen=True, eq=False)
class TeacherOutputs:
    """What the private model says on D_s.

    Attributes
    ----------
    key: hash of the private model, its preprocessing and the images.
    features: inputs of its last linear layer, shape (n, f), float32.
    logits: shape (n, classes of the private model), float32.
    """

    key: str
    features: Tensor
    logits: Tensor


def teacher_outputs(
    pretrained: PretrainedModel,
    pixels: Tensor,
    folder: Path | None,
    console: Console | None = None,
) -> TeacherOutputs:
    """Outputs of the private model on uint8 images (n, c, h, w), from ``folder`` if kept there.

    Parameters
    ----------
    folder: where they are kept; None computes them and keeps nothing.
    console: where progress is shown; standard error by default.
    """
    console = console or Console(stderr=True, markup=False, emoji=False)
    key = cache_key(pretrained, pixels)
    path = folder / f"features-{key[:32]}.safetensors" if folder else None
    if path is not None and path.exists():
        kept = _read(path, key)
        if kept is not None:
            return kept
        console.print(f"{path} is torn or not of this model; its content is computed again")
    outputs = TeacherOutputs(key, *_compute(pretrained, pixels, console))
    if path is not None:
        write_atomic(path, _content(outputs), OWN)
    return outputs


def cache_key(pretrained: PretrainedModel, pixels: Tensor) -> str:
    """SHA-256 over model, preprocessing and images, hexadecimal."""
    digest = hashlib.sha256()
    about = [pretrained.architecture, pretrained.fingerprint, pretrained.preprocessing.as_dict()]
    digest.update(json.dumps([*about, list(pixels.shape)]).encode())
    digest.update(pixels.contiguous().numpy().data)
    return digest.hexdigest()


def _compute(
    pretrained: PretrainedModel, pixels: Tensor, console: Console
) -> tuple[Tensor, Tensor]:
    parts: list[tuple[Tensor, Tensor]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Private model on the server's images", total=len(pixels))
        for batch in torch.split(pixels, _BATCH):
            parts.append(pretrained(batch))
            progress.advance(task, len(batch))
    features, logits = (torch.cat(part).float() for part in zip(*parts, strict=True))
    return features, logits


def _content(outputs: TeacherOutputs) -> bytes:
    tensors = {"features": outputs.features.contiguous(), "logits": outputs.logits.contiguous()}
    return safetensors.torch.save(tensors, {"key": outputs.key, "values": _hash(outputs)})


def _read(path: Path, key: str) -> TeacherOutputs | None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            outputs = TeacherOutputs(key, file.get_tensor("features"), file.get_tensor("logits"))
    except safetensors.SafetensorError:
        return None
    right = metadata.get("key") == key and metadata.get("values") == _hash(outputs)
    return outputs if right else None


def _hash(outputs: TeacherOutputs) -> str:
    digest = hashlib.sha256()
    for tensor in (outputs.features, outputs.logits):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
