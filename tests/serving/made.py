"""Served models that are made without torch: one linear layer over pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from common.files import write_atomic
from common.serving import CARD
from common.tensorfile import dump
from common.tensors import Tensors

SIZE, CLASSES = 4, ("cat", "dog", "owl")
PICTURE = {
    "architecture": "linear", "classes": list(CLASSES), "channels": 1, "image_size": SIZE,
    "mean": [0.5], "std": [0.25], "alpha": 0.1, "steps": 0, "statistics": "running",
    "method": "fedavg", "run": "trial",
}  # fmt: skip
WEIGHT, BIAS = "network.fc.weight", "network.fc.bias"


def graph() -> bytes:
    """What ``deploy.serving.graph`` draws, for one linear layer."""
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast", "full"], ["shares"]),
        helper.make_node("Sub", ["shares", "pixel_mean"], ["centred"]),
        helper.make_node("Div", ["centred", "pixel_std"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("Gemm", ["flat", WEIGHT, BIAS], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    arrays = {
        "full": np.float32(255), "pixel_mean": np.zeros((1, 1, 1, 1), np.float32),
        "pixel_std": np.ones((1, 1, 1, 1), np.float32),
        WEIGHT: np.zeros((3, SIZE * SIZE), np.float32), BIAS: np.zeros(3, np.float32),
    }  # fmt: skip
    drawn = helper.make_graph(
        nodes, "linear",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key=CARD, value=json.dumps(PICTURE))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def weights(bias: tuple[float, float, float], weight: NDArray[np.float32] | None = None) -> bytes:
    """A model file of AugFlower."""
    if weight is None:
        weight = np.zeros((3, SIZE * SIZE), np.float32)
    arrays = {"fc.weight": weight, "fc.bias": np.asarray(bias, np.float32)}
    return dump({"model": Tensors.pack(arrays), "buffers": Tensors.pack({})}, PICTURE)


def place(folder: Path, bias: tuple[float, float, float] = (2, 0, 0)) -> Path:
    """A file to follow, with the graph where the server keeps it."""
    source = folder / "serving" / "model.safetensors"
    write_atomic(source, weights(bias))
    write_atomic(folder / "serving" / "graph.onnx", graph())
    return source


def picture(value: int = 100) -> bytes:
    """A grey PNG."""
    file = io.BytesIO()
    Image.fromarray(np.full((9, 7), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def softmax(bias: tuple[float, ...]) -> NDArray[np.float64]:
    """Probabilities of a model that looks at no image."""
    found = np.exp(np.asarray(bias, np.float64))
    return found / found.sum()
