"""Eight bits: smaller, about as good, and refused where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import DataError, ModelError
from deploy.quantize import quantize
from deploy.serving.model import Model, with_weights
from tests.serving.made import CLASSES, SIZE, graph, weights


def exported(folder: Path) -> Path:
    """A model that tells dark, grey and bright images apart."""
    weight = np.zeros((3, SIZE * SIZE), np.float32)
    weight[0], weight[2] = -0.5, 0.5
    path = folder / "model.onnx"
    path.write_bytes(with_weights(graph(), weights((0, 6, 0), weight), "made"))
    return path


def pictures(folder: Path, grey: int = 128) -> Path:
    for name, value in zip(CLASSES, (20, grey, 235), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            shade = np.full((SIZE, SIZE), value + number, np.uint8)
            Image.fromarray(shade).save(folder / name / f"{number}.png")
    return folder


def test_it_measures_before_and_after_and_keeps_the_card(tmp_path: Path) -> None:
    model = exported(tmp_path)
    found = quantize(model, pictures(tmp_path / "images"), tmp_path / "small.onnx")
    assert found.images == 15
    assert found.before.accuracy == found.after.accuracy == 1.0
    assert found.before.bytes == model.stat().st_size
    assert found.after.bytes == found.path.stat().st_size
    small = Model(found.path.read_bytes())
    assert small.classes == list(CLASSES)
    pixels = np.full((1, 1, SIZE, SIZE), 20, np.uint8)
    whole = Model(model.read_bytes()).probabilities(pixels)
    assert not np.array_equal(small.probabilities(pixels), whole), "nothing was quantised"


def test_what_loses_more_than_allowed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small model is made one that knows one class alone."""
    bad = with_weights(graph(), weights((9, 0, 0)), "bad")
    monkeypatch.setattr("deploy.quantize._quantized", lambda *_: bad)
    images = pictures(tmp_path / "images")
    with pytest.raises(ModelError, match=r"33\.3 % of 15 images rightly, where it was 100\.0 %"):
        quantize(exported(tmp_path), images, tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()
    assert quantize(exported(tmp_path), images, tmp_path / "small.onnx", 0.7).path.exists()


def test_classes_are_those_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "images" / "fish").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "fish" / "1.png")
    with pytest.raises(DataError, match="the model has no such class"):
        quantize(exported(tmp_path), tmp_path / "images", tmp_path / "small.onnx")
