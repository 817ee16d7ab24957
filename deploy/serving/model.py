"""An ONNX model in memory, and the way to make one of a graph and newer weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from common.errors import ModelError
from common.serving import CARD
from common.tensorfile import parse

VERSION = "version"
"""Entry of a served file's metadata: which weights these are."""
_SHAPE = ("architecture", "classes", "channels", "image_size")
"""What of a card decides the graph."""


@dataclass(frozen=True)
class Answer:
    """What a model says about one image.

    Attributes
    ----------
    label: the likeliest class.
    probability: its probability.
    probabilities: of all classes, in the model's order.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


class Model:
    """One model, whole and unchanging; threads may share it.

    Attributes
    ----------
    version: names the weights.
    classes, channels, size: as its card says.
    """

    def __init__(self, content: bytes, threads: int = 0) -> None:
        """Load the content of an ONNX file.

        Raises
        ------
        ModelError: it is none that runs here, or has no card of AugFlower.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # It keeps what the largest batch has taken: 3.5 GB after 64 images with ResNet-18 in place
        # of 0.2, and saves no time there.
        options.enable_cpu_mem_arena = False
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            notes = self._session.get_modelmeta().custom_metadata_map
            card = json.loads(notes[CARD])
            self.classes: list[str] = list(card["classes"])
            self.channels, self.size = int(card["channels"]), int(card["image_size"])
        except Exception as error:  # onnxruntime's own errors have no common parent
            raise ModelError(f"not an ONNX model of AugFlower that runs here: {error}") from error
        self.version = notes.get(VERSION) or hashlib.sha256(content).hexdigest()[:12]

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Of each class, shape (n, classes), for pixels of shape (n, channels, size, size)."""
        found: NDArray[np.float32] = self._session.run(["probabilities"], {"images": pixels})[0]
        return found

    def answers(self, probabilities: NDArray[np.float32]) -> list[Answer]:
        """The same in words."""
        return [
            Answer(self.classes[best := int(row.argmax())], float(row[best]), self._named(row))
            for row in probabilities
        ]

    def right(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images it names rightly, shape (n,)."""
        parts = [self.probabilities(part).argmax(1) for part in _batches(pixels)]
        return np.asarray(np.concatenate(parts) == labels)

    def _named(self, row: Sequence[float] | NDArray[np.float32]) -> dict[str, float]:
        return {name: float(share) for name, share in zip(self.classes, row, strict=True)}


def read_weights(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A model file of AugFlower, and its card.

    Raises
    ------
    ModelError: it is torn, altered, or none.
    """
    content = path.read_bytes()
    _, card = parse(content, str(path))
    if not set(_SHAPE) <= card.keys():
        raise ModelError(f"{path} has no model card: name a model, not a checkpoint")
    return content, card


def fits(graph: bytes, card: dict[str, Any]) -> bool:
    """Whether weights of this card may be put into a graph."""
    notes = {entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}
    drawn = json.loads(notes.get(CARD, "{}"))
    return all(drawn.get(name) == card[name] for name in _SHAPE)


def with_weights(graph: bytes, content: bytes, where: str) -> bytes:
    """ONNX of a graph with the parameters and buffers of a model file; takes milliseconds.

    Parameters
    ----------
    graph: ONNX whose initializers have the names of ``Packaged``'s tensors.
    content: of the model file.

    Raises
    ------
    ModelError: the two do not fit.
    """
    groups, card = parse(content, where)
    arrays = {
        f"network.{name}": array for g in groups.values() for name, array in g.unpack().items()
    }
    for name in ("mean", "std"):
        arrays[f"pixel_{name}"] = np.asarray(card[name], np.float32).reshape(1, -1, 1, 1)
    model = onnx.load_from_string(graph)
    for entry in model.graph.initializer:
        array = arrays.pop(entry.name, None)
        if array is None:
            continue  # a constant of the graph
        if tuple(entry.dims) != array.shape:
            raise ModelError(f"{where}: {entry.name} has another shape than in the graph")
        entry.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), entry.name))
    if left := [name for name in arrays if not name.endswith("num_batches_tracked")]:
        raise ModelError(f"{where}: the graph has no place for {left[0]}")
    del model.metadata_props[:]
    version = hashlib.sha256(content).hexdigest()[:12]
    for key, value in ((CARD, json.dumps(card, ensure_ascii=False)), (VERSION, version)):
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


def _batches(pixels: NDArray[np.uint8], size: int = 64) -> list[NDArray[np.uint8]]:
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]
