"""Exported models give the same answers as the run's, in the runtimes that they are for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from common.data.load import load
from common.errors import DataError, ModelError
from common.modelfile import Card, load_model, save_model
from common.models import FlatModel, build
from common.models.widths import by_salience, groups_of
from deploy.cli import app
from deploy.export import export_model
from deploy.predict import predict

CLASSES = ("cat", "dog", "käfer")


def model(folder: Path, architecture: str = "cnn-tiny", channels: int = 1, size: int = 8) -> Path:
    """A run's model; BatchNorm, where there is any, has seen images."""
    net = FlatModel(build(architecture, classes=3, channels=channels, image_size=size, seed=1))
    torch.manual_seed(0)
    net.module.train()
    with torch.no_grad():
        net.module(3 * torch.randn(16, channels, size, size) + 1)
    card = Card(
        architecture, CLASSES, channels, size, (0.3,) * channels, (0.4,) * channels,
        0.05, 1, "support", "fed_lpfm", "test",
    )  # fmt: skip
    path = folder / "models" / "last.safetensors"
    save_model(path, net.parameters, net.buffers, card)
    return path


def pictures(folder: Path, n: int = 35) -> list[Path]:
    pool = load("digits", image_size=24).pixels(np.arange(n))
    paths = []
    for i, pixels in enumerate(pool):
        paths.append(folder / f"{i:03}.png")
        Image.fromarray(np.pad(pixels[0], ((0, i % 3), (0, 0)))).save(paths[-1])
    return paths


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("architecture", "channels", "size"),
    [
        ("cnn-tiny", 1, 8),
        ("resnet8x4", 3, 16),
        pytest.param("mobilenet_v2", 3, 28, marks=pytest.mark.slow),
    ],
)
def test_the_same_answers(tmp_path: Path, architecture: str, channels: int, size: int, format: str):
    own = model(tmp_path, architecture, channels, size)
    written = export_model(tmp_path, format)
    assert written.parent == own.parent
    images = pictures(tmp_path)
    for one, other in zip(predict(own, images), predict(written, images), strict=True):
        assert one.path == other.path
        assert one.label == other.label
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
        assert sum(p for _, p in other.ranking) == pytest.approx(1, abs=1e-5)


def test_predictions_by_definition(tmp_path: Path):
    """softmax(net((x / 255 - mean) / std)) with the averages that BatchNorm has kept."""
    path = model(tmp_path, "resnet8x4", 1, 8)
    pool = load("digits")
    images = []
    for i in range(3):
        images.append(tmp_path / f"{i}.png")
        Image.fromarray(pool.pixels(np.array([i]))[0, 0]).save(images[-1])
    from common.modelfile import load_model

    net, buffers, _ = load_model(path)
    net.load_buffers(buffers)
    net.module.eval()
    pixels = torch.from_numpy(pool.pixels(np.arange(3))).float() / 255
    with torch.no_grad():
        expected = torch.softmax(net.module((pixels - 0.3) / 0.4), 1)
    for row, prediction in zip(expected, predict(path, images), strict=True):
        assert prediction.label == CLASSES[int(row.argmax())]
        got = dict(prediction.ranking)
        assert [got[name] for name in CLASSES] == pytest.approx(row.tolist(), abs=1e-6)
        assert [p for _, p in prediction.ranking] == sorted(got.values(), reverse=True)


def test_onnx_takes_any_number_of_images_and_carries_its_card(tmp_path: Path):
    import json

    import onnxruntime

    model(tmp_path)
    written = export_model(tmp_path, "onnx", tmp_path / "out" / "proxy.onnx")
    session = onnxruntime.InferenceSession(str(written))
    for n in (1, 2, 7):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 1, 8, 8), np.uint8)
        (answer,) = session.run(None, {"images": pixels})
        assert answer.shape == (n, 3)
        np.testing.assert_allclose(answer.sum(1), 1, rtol=1e-5)
    card = json.loads(session.get_modelmeta().custom_metadata_map["augflower"])
    assert card["classes"] == list(CLASSES)
    assert (card["image_size"], card["channels"], card["mean"]) == (8, 1, [0.3])


def test_suffixes_in_capitals(tmp_path: Path):
    model(tmp_path)
    images = pictures(tmp_path, 1)
    for name, format in (("P.ONNX", "onnx"), ("P.PT", "torchscript")):
        written = export_model(tmp_path, format, tmp_path / name)
        assert len(list(predict(written, images))) == 1


def test_one_bad_file_does_not_cost_the_answers_for_the_others(tmp_path: Path):
    path = model(tmp_path)
    good = pictures(tmp_path, 40)
    (tmp_path / "text.png").write_text("no image")
    images = [good[0], tmp_path / "text.png", *good[1:]]
    refused: list[DataError] = []
    answers = list(predict(path, images, refused=refused.append))
    assert [answer.path for answer in answers] == good
    assert ["text.png" in str(error) for error in refused] == [True]
    done = CliRunner().invoke(app, ["predict", str(path), *map(str, images[:3])])
    assert done.exit_code == 1
    assert done.stdout.count(".png: ") == 2
    assert "text.png cannot be read as an image" in done.stderr.replace("\n", " ")


def test_folders_stand_for_what_is_in_them(tmp_path: Path):
    """A run's for its last model, one of images for all of them."""
    path = model(tmp_path / "run")
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name / "deeper").mkdir(parents=True)
        pictures(images / name / "deeper", 3)
    (images / "notes.txt").write_text("no image")
    [first, *_] = files = sorted(images.rglob("*.png"))
    assert len(files) == 6
    assert list(predict(path.parents[1], [images, first])) == list(predict(path, [*files, first]))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="bare holds no images"):
        list(predict(path, [tmp_path / "bare"]))
    with pytest.raises(ModelError, match=r"bare holds no models/last\.safetensors"):
        list(predict(tmp_path / "bare", [images]))


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = model(tmp_path)
    with pytest.raises(ModelError, match="choose onnx or torchscript"):
        export_model(tmp_path, "tflite")
    (tmp_path / "dir.onnx").mkdir()
    for out, message in {
        "dir.onnx": "is a folder: name a file that ends in .onnx",
        "proxy.bin": "no name for onnx: name a file that ends in .onnx",
        "proxy.pt": "no name for onnx",
        "text/proxy.onnx": "cannot be written",
        "/proc/x/y.onnx": "cannot be written",
    }.items():
        (tmp_path / "text").write_text("no folder")
        with pytest.raises(ModelError, match=message):
            export_model(tmp_path, "onnx", tmp_path / out)
    with pytest.raises(ModelError, match="name the folder of a run"):
        export_model(tmp_path / "no-run" / "x.safetensors")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png cannot be read as an image"):
        list(predict(path, [tmp_path / "text.png"]))
    for name in ("torn.onnx", "torn.pt"):
        (tmp_path / name).write_bytes(b"torn")
        with pytest.raises(ModelError, match=name):
            list(predict(tmp_path / name, pictures(tmp_path, 1)))
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), tmp_path / "foreign.pt")
    with pytest.raises(ModelError, match="carries no class names"):
        list(predict(tmp_path / "foreign.pt", pictures(tmp_path, 1)))
    for missing in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModelError, match=r"augflower\[export\]"):
        export_model(tmp_path, "onnx")
    with pytest.raises(ModelError, match=r"augflower\[export\]"):
        list(predict(tmp_path / "torn.onnx", pictures(tmp_path, 1)))


@pytest.mark.parametrize("method", ["raffm", "fedavg"])
def test_a_network_is_exported_at_a_width(tmp_path: Path, method: str):
    """As it was trained in order; else by salience. It is a model like any other then."""
    own = model(tmp_path)
    whole, buffers, card = load_model(own)
    save_model(own, whole.parameters, buffers, replace(card, method=method))
    written = export_model(own, "safetensors", width=0.5)
    assert written.name == "last-0.5.safetensors"
    small, _, narrow = load_model(written)
    assert narrow.architecture == "cnn-tiny@0.5"
    arrays = whole.parameters.unpack()
    if method == "fedavg":
        arrays = by_salience(groups_of(whole.module), arrays)
    found = small.parameters.unpack()
    assert np.array_equal(found["3.weight"], arrays["3.weight"][:16, :8])
    assert np.array_equal(found["7.weight"], arrays["7.weight"][:, : 16 * 4])
    with pytest.raises(ModelError, match="is a cut network already"):
        export_model(written, "safetensors", width=0.5)
    for width in (0.0, 1.5):
        with pytest.raises(ModelError, match="a width is a share"):
            export_model(own, "safetensors", width=width)
