"""A trained model in one file: parameters, buffers and the card that says how to use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import ModelError
from common.files import write_atomic
from common.models import FlatModel
from common.task import Task, backbone_digest, hollow
from common.tensorfile import dump, parse
from common.tensors import Tensors


@dataclass(frozen=True)
class Card:
    """How to use a model.

    Attributes
    ----------
    architecture: name for ``common.models.build``.
    classes: names in the order of the logits.
    channels, image_size: of the input, pixels.
    mean, std: per channel, of pixels in [0, 1].
    alpha, steps: rate and number of adaptation steps that the model was trained for.
    statistics: whose BatchNorm statistics evaluate the adapted model.
    method, run: where it comes from.
    backbone: where the weights of what nobody trained are; empty if all was trained.
    backbone_digest: their SHA-256.
    """

    architecture: str
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    alpha: float
    steps: int
    statistics: str
    method: str
    run: str
    backbone: str = ""
    backbone_digest: str = ""

    @property
    def task(self) -> Task:
        """What its network was made for."""
        return Task(
            self.architecture, len(self.classes), self.channels, self.image_size, self.backbone
        )


def save_model(path: Path, model: Tensors, buffers: Tensors, card: Card) -> None:
    """Write a model with its card, atomically."""
    write_atomic(path, model_bytes(model, buffers, card))


def model_bytes(model: Tensors, buffers: Tensors, card: Card) -> bytes:
    """The content of a model's file."""
    return dump({"model": model, "buffers": buffers}, asdict(card))


def named(module: nn.Module, card: Card) -> tuple[Tensors, Tensors]:
    """Parameters and buffers of a network for ``save_model``.

    Raises
    ------
    ModelError: it is none that the card's architecture could be built as again.
    """
    shapes, known = (
        {name: tensor.shape for name, tensor in network.state_dict().items()}
        for network in (module, hollow(card.task))
    )
    if shapes != known:
        raise ModelError(
            f"a model of {card.method} is no {card.architecture} alone, and can be written as ONNX "
            "and TorchScript only: name a file that ends in .onnx or .pt"
        )
    model = FlatModel(module)
    return model.parameters, model.buffers


def load_model(path: Path) -> tuple[FlatModel, Tensors, Card]:
    """Read a model: the network with its parameters loaded, its buffers, and its card.

    Raises
    ------
    ModelError: there is no such file, or it is not a model of AugFlower.
    """
    if not path.is_file():
        raise ModelError(
            f"{path} is not a file: name a model such as runs/NAME/models/last.safetensors"
        )
    groups, notes = parse(path.read_bytes(), str(path))
    card = read_card(notes, path)
    if card.task.tuning and backbone_digest(card.task) != card.backbone_digest:
        raise ModelError(
            f"{path} was trained on other weights than those of {card.backbone}: put these back"
        )
    model = FlatModel(card.task.build())
    if groups["model"].specs != model.parameters.specs:
        raise ModelError(f"{path}: its tensors are not those of a {card.architecture}")
    model.load_tensors(groups["model"])
    model.load_buffers(groups["buffers"])
    return model, groups["buffers"], card


def read_card(notes: Mapping[str, Any], path: Path) -> Card:
    """The card that a file's notes hold, and nothing else.

    Raises
    ------
    ModelError: they are no card.
    """
    try:
        return Card(
            **{
                **notes,
                "classes": tuple(notes["classes"]),
                "mean": tuple(notes["mean"]),
                "std": tuple(notes["std"]),
            }
        )
    except (KeyError, TypeError):
        raise ModelError(
            f"{path} has no model card; it may be a checkpoint: name a file in the run's models "
            "folder"
        ) from None
