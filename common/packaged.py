"""A network with its preprocessing before it and probabilities behind it, for other runtimes."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.modelfile import Card
from common.serving import CARD


class Packaged(nn.Module):
    """A network with its preprocessing before it and softmax behind it."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("pixel_mean", torch.tensor(card.mean).view(1, -1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(card.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, c, h, w) to probabilities (n, classes)."""
        scaled = (images.float() / 255 - self.pixel_mean) / self.pixel_std
        return torch.softmax(self.network(scaled), 1)


def example(card: Card) -> Tensor:
    """Two black images, uint8."""
    return torch.zeros(2, card.channels, card.image_size, card.image_size, dtype=torch.uint8)


def card_text(card: Card) -> str:
    """The card as it travels in a file."""
    return json.dumps(asdict(card), ensure_ascii=False)


def onnx_bytes(module: nn.Module, card: Card, *, optimize: bool = True) -> bytes:
    """A network as ONNX: ``images``, uint8 (n, c, h, w), to ``probabilities``, (n, classes).

    Parameters
    ----------
    optimize: fold what is constant. Without it every parameter and buffer is an initializer by the
        name that it has in ``Packaged``, so that others may take its place.

    Raises
    ------
    ModelError: what writes ONNX is not installed.
    """
    try:
        import onnxscript  # noqa: F401  # torch.onnx needs it, and says so far less clearly
    except ImportError as error:
        raise ModelError("export to ONNX needs: pip install 'augflower[export]'") from error
    count = torch.export.Dim("n", min=1)
    schemas = logging.getLogger("torch.onnx._internal.exporter._schemas")
    level = schemas.level
    schemas.setLevel(logging.ERROR)  # it warns of operators that no classifier has
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                Packaged(module, card).eval(),
                (example(card),),
                dynamo=True,
                verbose=False,
                dynamic_shapes=({0: count},),
                input_names=["images"],
                output_names=["probabilities"],
                optimize=optimize,
            )
    finally:
        schemas.setLevel(level)
    assert program is not None
    program.model.metadata_props[CARD] = card_text(card)
    return program.model_proto.SerializeToString()
