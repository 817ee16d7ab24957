"""Ask a trained or exported model about images."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.image_files import SUFFIXES, decode, list_all_images
from common.errors import DataError, ModelError
from common.serving import CARD
from deploy.export import load_packaged
from deploy.model_file import model_file

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pixels, shape (n, c, size, size), to probabilities, shape (n, classes)."""

BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image.

    Attributes
    ----------
    label: the likeliest class.
    confidence: its probability.
    ranking: the likeliest classes with their probabilities, best first.
    """

    path: Path
    label: str
    confidence: float
    ranking: tuple[tuple[str, float], ...]


def predict(
    model: Path,
    images: Sequence[Path],
    top: int = 3,
    refused: Callable[[DataError], None] | None = None,
) -> Iterator[Prediction]:
    """Classify image files of any size, one after the other.

    Parameters
    ----------
    model: a run's folder or .safetensors, or an exported .onnx or .pt.
    images: files, and folders, of which all images within are meant, in the order of their paths.
    top: length of the ranking.
    refused: is told of each file that is not an image, and the others go on.

    Raises
    ------
    ModelError: the model cannot be used.
    DataError: a file is not an image, and there is no ``refused``; or a folder holds no image.
    """
    run, card = _open(model_file(model))
    images = [path for given in images for path in _files(given)]
    classes: list[str] = card["classes"]
    for start in range(0, len(images), BATCH):
        read: dict[int, NDArray[np.uint8]] = {}
        for position in range(start, min(start + BATCH, len(images))):
            try:
                read[position] = decode(images[position], card["image_size"], card["channels"])
            except DataError as error:
                if refused is None:
                    raise
                refused(error)
        if not read:
            continue
        for position, row in zip(read, run(np.stack(list(read.values()))), strict=True):
            best = np.argsort(row)[::-1][:top]
            ranking = tuple((classes[i], float(row[i])) for i in best)
            yield Prediction(images[position], *ranking[0], ranking)


def _files(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    if found := list_all_images(given):
        return found
    raise DataError(f"{given} holds no images ({', '.join(SUFFIXES)}); name another folder")


def _open(path: Path) -> tuple[Run, dict[str, Any]]:
    if path.suffix.lower() == ".onnx":
        return _open_onnx(path)
    if path.suffix.lower() == ".pt":
        return _open_torchscript(path)
    packaged, card = load_packaged(path)
    return _torch(packaged), {
        "classes": list(card.classes),
        "image_size": card.image_size,
        "channels": card.channels,
    }


def _open_onnx(path: Path) -> tuple[Run, dict[str, Any]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("an ONNX model needs: pip install 'augflower[export]'") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common parent
        raise ModelError(f"{path} is not an ONNX model that runs here: {error}") from error
    card = _card(session.get_modelmeta().custom_metadata_map.get(CARD), path)
    return lambda pixels: session.run(["probabilities"], {"images": pixels})[0], card


def _open_torchscript(path: Path) -> tuple[Run, dict[str, Any]]:
    extra = {CARD: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is not a TorchScript model: {str(error)[:200]}") from error
    return _torch(module), _card(extra[CARD], path)


def _torch(module: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return module(torch.from_numpy(pixels)).numpy()

    return run


def _card(content: str | bytes | None, path: Path) -> dict[str, Any]:
    try:
        card = json.loads(content or "")
        return {key: card[key] for key in ("classes", "image_size", "channels")}
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{path} carries no class names of AugFlower; export it with 'augflower export'"
        ) from None
