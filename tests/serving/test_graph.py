"""Weights in a graph that was drawn once give what the network itself gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.modelfile import Card, save_model
from common.models import FlatModel, build
from common.packaged import Packaged
from deploy.serving import Serving
from deploy.serving.model import Model, with_weights

pytestmark = pytest.mark.slow  # drawing a graph takes seconds


def trained(path: Path, architecture: str, seed: int) -> Packaged:
    """A model whose BatchNorm, where there is any, has seen images."""
    net = FlatModel(build(architecture, classes=3, channels=3, image_size=32, seed=seed))
    torch.manual_seed(seed)
    net.module.train()
    with torch.no_grad():
        net.module(3 * torch.randn(16, 3, 32, 32) + 1)
    card = Card(
        architecture, ("a", "b", "c"), 3, 32, (0.3, 0.4, 0.5), (0.2, 0.3, 0.4), 0.1, 1, "support",
        "fedavg", "run",
    )  # fmt: skip
    save_model(path, net.parameters, net.buffers, card)
    return Packaged(net.module, card).eval()


@pytest.mark.parametrize("architecture", ["cnn-small", "resnet8x4", "mobilenet_v2"])
def test_the_same_answers(tmp_path: Path, architecture: str) -> None:
    source = tmp_path / "model.safetensors"
    trained(source, architecture, seed=1)
    kept = Serving(source, tmp_path, threads=1)
    assert kept.take(), kept.problem
    drawn = (tmp_path / "graph.onnx").stat()
    newer = trained(source, architecture, seed=2)
    assert kept.take()
    assert (tmp_path / "graph.onnx").stat() == drawn, "the graph is drawn once"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    content = with_weights((tmp_path / "graph.onnx").read_bytes(), source.read_bytes(), "it")
    with torch.inference_mode():
        expected = newer(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(Model(content).probabilities(pixels), expected, atol=1e-5)
