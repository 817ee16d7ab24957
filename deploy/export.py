"""Write a trained proxy for other runtimes: preprocessing inside, class names beside.

The exported network takes images as pixels, uint8 of shape (n, channels, size, size), and gives
probabilities, float32 of shape (n, classes). Scaling and normalisation are part of it; the largest
centred square of an image, resized, is what it expects. The card with the class names travels in
the file: in ONNX as the metadata entry ``augflower``, in TorchScript as the extra file so named.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from client_app.kept import own_model
from common.errors import ModelError
from common.files import write_atomic
from common.modelfile import Card, load_model, model_bytes, named
from common.models.widths import at_width, by_salience, cut, groups_of, name_and_width
from common.packaged import Packaged, card_text, example, onnx_bytes
from common.serving import CARD
from deploy.model_file import model_file, newcomer

Format = Literal["onnx", "torchscript", "safetensors"]

SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}


def export_model(
    source: Path | None,
    format: str = "onnx",
    out: Path | None = None,
    device: Path | None = None,
    width: float = 1.0,
) -> Path:
    """Export a run's last model, any model file, or a device's own; returns the file written.

    Parameters
    ----------
    source: folder of a run, or a file such as ``runs/NAME/models/best.safetensors``.
    format: "onnx", "torchscript", or AugFlower's own "safetensors".
    out: the file; by default beside the model, or named like ``device``, here.
    device: a device's memory of one run, of which its own model is taken; ``source`` is then the
        folder of that run, or None where the method needs no more than the device's memory.
    width: share of the network's units that are kept, the first of each layer; of a method that
        does not put them in an order, the most salient.

    Raises
    ------
    ModelError: there is no such model or format, what writes the format is not installed, or
        ``out`` is no file of that format or cannot be written.
    """
    if format not in get_args(Format):
        raise ModelError(f"no export format {format!r}; choose {' or '.join(get_args(Format))}")
    kind: Format = next(name for name in get_args(Format) if name == format)
    if device is not None:
        module, card = _own_model(device, source)
        place = Path(device.absolute().name)
    elif source is not None:
        place = model_file(source)
        model, _, card = load_model(place)
        module = model.module
    else:
        raise ModelError("name the folder of a run, a model file, or --from-device FOLDER")
    if width != 1:
        module, card = _narrow(module, card, width)
        place = place.with_name(f"{place.stem}-{width:g}{place.suffix}")
    target = out or place.with_name(place.stem + SUFFIX[kind])
    if target.is_dir() or target.suffix.lower() != SUFFIX[kind]:
        raise ModelError(
            f"{target} is {'a folder' if target.is_dir() else 'no name for ' + kind}: name a file "
            f"that ends in {SUFFIX[kind]}"
        )
    content = written(module, card, kind)
    try:
        write_atomic(target, content)
    except OSError as error:
        raise ModelError(
            f"{target} cannot be written ({error.strerror}); name a file in a folder that you "
            "may write"
        ) from error
    return target


def _narrow(module: nn.Module, card: Card, width: float) -> tuple[nn.Module, Card]:
    if name_and_width(card.architecture)[1] != 1:
        raise ModelError(f"{card.architecture} is a cut network already: export the whole one")
    if card.method != "raffm":
        arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
        ordered = by_salience(groups_of(module), arrays)
        module.load_state_dict({name: torch.tensor(array) for name, array in ordered.items()})
    return cut(module, width), replace(card, architecture=at_width(card.architecture, width))


def _own_model(device: Path, run: Path | None) -> tuple[nn.Module, Card]:
    if run is None:
        return own_model(device)
    if (found := newcomer(run)) is None:
        raise ModelError(
            f"{run} is not the folder of a finished run whose clients have models of their own"
        )
    return own_model(device, found[0])


def format_of(path: Path) -> Format:
    """The format that a file's ending means; AugFlower's own where it means none."""
    return next((kind for kind in SUFFIX if SUFFIX[kind] == path.suffix.lower()), "safetensors")


def written(module: nn.Module, card: Card, kind: Format) -> bytes:
    """The content of a file of this format.

    Raises
    ------
    ModelError: AugFlower's own does not hold such a network, or what writes it is not installed.
    """
    if kind == "safetensors":
        return model_bytes(*named(module, card), card)
    return onnx_bytes(module, card) if kind == "onnx" else _torchscript(module, card)


def load_packaged(path: Path) -> tuple[Packaged, Card]:
    """A model file as what would be exported, ready to answer.

    Raises
    ------
    ModelError: it is not a model of AugFlower.
    """
    model, buffers, card = load_model(path)
    model.load_buffers(buffers)
    return Packaged(model.module, card).eval(), card


def _torchscript(module: nn.Module, card: Card) -> bytes:
    file, packaged = io.BytesIO(), Packaged(module, card).eval()
    with warnings.catch_warnings():
        # Deprecated in favour of torch.export, but what LibTorch and torch.jit.load read.
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(packaged, example(card))
        torch.jit.save(traced, file, _extra_files={CARD: card_text(card)})
    return file.getvalue()
