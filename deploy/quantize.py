"""Exported models in eight bits: onnxruntime's static quantisation with a device's own images."""

from __future__ import annotations

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.image_files import decode, list_classes, slug
from common.errors import DataError, ModelError
from common.files import write_atomic
from deploy.serving.model import Model

MOST_CALIBRATED = 500  # images from which the ranges of activations are taken
_BATCH, _REPEATS = 32, 30
_OPERATORS = ["Conv", "Gemm", "MatMul"]
"""What costs time; scaling of pixels and softmax stay in floating point."""


@dataclass(frozen=True)
class Figures:
    """Of one model: size of its file, time for one image, share of images named rightly."""

    bytes: int
    milliseconds: float
    accuracy: float


@dataclass(frozen=True)
class Quantized:
    """What quantisation gave; ``images`` is the number of those that accuracy was measured on."""

    before: Figures
    after: Figures
    images: int
    path: Path


def quantize(model: Path, folder: Path, out: Path, most_lost: float = 0.01) -> Quantized:
    """Write an ONNX model with weights and activations of eight bits.

    Every second image of a class calibrates, the others measure. Weights have a scale for each
    channel; zero stands for zero everywhere, as TensorRT asks.

    Parameters
    ----------
    model: what ``augflower export`` wrote as ONNX.
    folder: labelled images like those that the device sees, one subfolder a class.
    most_lost: accuracy that may be lost, as a share of the images measured.

    Raises
    ------
    ModelError: more is lost than that, and nothing is written; or it is no such model.
    DataError: the folder's images cannot be used.
    """
    content = model.read_bytes()
    whole = Model(content)
    calibrating, measuring, labels = _images(folder, whole)
    small = _quantized(content, calibrating)
    before, after = (
        Figures(
            len(file), _milliseconds(loaded, measuring[:1]), loaded.right(measuring, labels).mean()
        )
        for file, loaded in ((content, whole), (small, Model(small)))
    )
    if before.accuracy - after.accuracy > most_lost:
        raise ModelError(
            f"{model} in eight bits names {100 * after.accuracy:.1f} % of {len(labels)} images "
            f"rightly, where it was {100 * before.accuracy:.1f} %: more than "
            f"{100 * most_lost:g} points are lost, and nothing was written. Calibrate with more "
            "images, or allow the loss with --most-lost"
        )
    write_atomic(out, small)
    return Quantized(before, after, len(labels), out)


def _images(
    folder: Path, model: Model
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    numbers = {slug(name): number for number, name in enumerate(model.classes)}
    calibrating, measuring, labels = [], [], []
    for name, files in list_classes(folder).items():
        if slug(name) not in numbers:
            raise DataError(f"{folder / name}: the model has no such class; rename the subfolder")
        pixels = [decode(path, model.size, model.channels) for path in files]
        calibrating += pixels[::2]
        measuring += pixels[1::2]
        labels += [numbers[slug(name)]] * len(pixels[1::2])
    if not measuring:
        raise DataError(f"{folder}: at least two images of a class are needed")
    spread = np.random.default_rng(0).permutation(len(calibrating))[:MOST_CALIBRATED]
    return np.stack(calibrating)[spread], np.stack(measuring), np.asarray(labels, np.int64)


def _quantized(content: bytes, images: NDArray[np.uint8]) -> bytes:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(np.array_split(images, max(1, len(images) // _BATCH)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder, _silent():
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        given.write_bytes(content)
        quantization.quantize_static(
            given, made, Reader(),
            quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=_OPERATORS,
            activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip
        return made.read_bytes()


def _milliseconds(model: Model, image: NDArray[np.uint8]) -> float:
    """Median time for one image."""
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        model.probabilities(image)
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without onnxruntime's advice to optimise what torch has optimised already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
