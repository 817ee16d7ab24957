"""A client's own model leaves its device, and a new device gets one: the method's ``personal``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from client_app.app import app as devices
from client_app.device import open_device
from client_app.own_model import new_model, recall
from common.data.load import load
from common.errors import ModelError
from common.modelfile import load_model
from deploy.adapt import adapt_model
from deploy.cli import app
from deploy.export import export_model
from deploy.predict import predict
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import read_settings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from tests.own_images import write_digits

OWN = {
    "own-models": "cnn-tiny,resnet8x4", "data.sources": 2, "data.targets": 1, "rounds": 2,
    "evaluation.steps": 20, "evaluation.every": 0, "run-name": "own",
    "fml.sgd.epochs": 4, "fml.sgd.batch-size": 4,
}  # fmt: skip
Run = Callable[..., Path]


@pytest.fixture
def trained(small_run: Run, tmp_path: Path) -> tuple[Path, InProcessGrid, Path]:
    """A run of FML, its devices, and the folder that holds their memories of it."""
    config = default_config() | OWN | {"method": "fml"}
    nodes = node_configs(read_settings(config)[0].data)
    state = tmp_path / "state"
    grid = InProcessGrid(devices, [n | {"state-folder": str(state)} for n in nodes], config)
    return small_run("fml", OWN, grid=grid), grid, state / "own"


def logits(grid: InProcessGrid, client: int, pixels: np.ndarray) -> np.ndarray:
    """Of the model in a device's memory, by torch, on normalised images."""
    settings = read_settings(default_config() | OWN | {"method": "fml"})[0]
    device = open_device(grid.contexts[FIRST_NODE + client], settings)
    model = new_model(device, 0)
    assert recall(device, "fml", model)
    digits = load("digits")
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (digits.mean, digits.std))
    with torch.no_grad():
        return model.module.eval()((torch.tensor(pixels).float() / 255 - mean) / std).numpy()


def softmax(scores: np.ndarray) -> np.ndarray:
    grown = np.exp(scores - scores.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


@pytest.mark.parametrize("client", [0, 1])
def test_a_sources_own_model_answers_in_onnxruntime_as_in_torch(
    trained: Any, client: int, tmp_path: Path
):
    _, grid, memory = trained
    out = tmp_path / "own.onnx"
    folder = memory / f"client-{client}"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = CliRunner().invoke(app, ["export", "--from-device", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    pixels = load("digits").pixels(np.arange(40))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    [answers] = session.run(["probabilities"], {"images": pixels})
    expected = logits(grid, client, pixels)
    np.testing.assert_allclose(answers, softmax(expected), atol=1e-5)
    # As logits, but for a constant an image.
    scores = np.log(answers)
    np.testing.assert_allclose(
        scores - scores.mean(1, keepdims=True),
        expected - expected.mean(1, keepdims=True),
        atol=1e-3,
    )


def test_what_was_taken_off_is_a_model_like_any_other(trained: Any, tmp_path: Path):
    """Of the client's own architecture; it predicts and adapts."""
    _, grid, memory = trained
    path = export_model(None, "safetensors", tmp_path / "own.safetensors", memory / "client-1")
    model, _, card = load_model(path)
    assert (card.architecture, card.method, card.run) == ("resnet8x4", "fml", "own")
    assert card.classes == load("digits").classes
    pixels = load("digits").pixels(np.arange(9))
    scaled = (torch.tensor(pixels).float() / 255 - card.mean[0]) / card.std[0]
    with torch.no_grad():
        np.testing.assert_allclose(
            model.module.eval()(scaled), logits(grid, 1, pixels), rtol=1e-5, atol=1e-5
        )
    images = write_digits(tmp_path / "images", 10)
    assert adapt_model(path, images, tmp_path / "adapted.safetensors").path.is_file()


def test_a_new_device_makes_its_own_model_as_a_target_does(trained: Any, tmp_path: Path):
    run, _, _ = trained
    images = write_digits(tmp_path / "images", 20)
    done = adapt_model(run, images, tmp_path / "mine.safetensors", steps=40)
    assert done.after > max(done.before, 0.8)
    mine, shared = (load_model(p)[0] for p in (done.path, run / "models" / "last.safetensors"))
    assert not np.array_equal(mine.parameters.vector, shared.parameters.vector)
    again = adapt_model(run, images, tmp_path / "again.safetensors", steps=40)
    assert again.path.read_bytes() == done.path.read_bytes()
    with pytest.raises(ModelError, match="alpha has no part in how fml makes"):
        adapt_model(run, images, tmp_path / "mine.safetensors", alpha=0.1)


def test_a_method_without_personal_models_has_none_to_take_off(small_run: Run, tmp_path: Path):
    memory = tmp_path / "state" / "plain" / "client-0"
    small = {"data.sources": 1, "data.targets": 1, "rounds": 1, "run-name": "plain"}
    config = default_config() | small | {"method": "fedavg"}
    nodes = node_configs(read_settings(config)[0].data)
    nodes = [node | {"state-folder": str(tmp_path / "state")} for node in nodes]
    run = small_run("fedavg", small, grid=InProcessGrid(devices, nodes, config))
    memory.mkdir(parents=True, exist_ok=True)
    assert not (run / "newcomer.safetensors").exists()
    with pytest.raises(ModelError, match="is not the memory of a device with a model of its own"):
        export_model(None, device=memory)
    with pytest.raises(ModelError, match="not the folder of a finished run whose clients have"):
        export_model(run, device=memory)


def test_no_untrained_model_is_taken_off(trained: Any, tmp_path: Path):
    memory = trained[2] / "client-0"
    (memory / "fml.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"holds no 'fml', or a damaged one: the device has not"):
        export_model(None, device=memory)
    with pytest.raises(ModelError, match="is not a folder"):
        export_model(None, device=tmp_path / "nowhere")
    with pytest.raises(ModelError, match="or --from-device FOLDER"):
        export_model(None)


def test_a_newcomers_file_that_is_damaged_is_named(trained: Any, tmp_path: Path):
    path = trained[0] / "newcomer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"newcomer\.safetensors is damaged"):
        adapt_model(trained[0], tmp_path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_a_new_device_gets_a_model_that_is_no_architecture_alone(
    small_run: Run, tmp_path: Path, suffix: str
):
    """FedProto's features have a width of their own, so that its models cannot be built by name."""
    settings = {"data.sources": 2, "data.targets": 0, "data.test-fraction": 0.25, "rounds": 1,
                "evaluation.who": "sources", "run-name": "own"}  # fmt: skip
    run, images, out = small_run("fedproto", settings), tmp_path / "images", tmp_path / f"m{suffix}"
    write_digits(images, 12)
    with pytest.raises(ModelError, match=r"name a file that ends in \.onnx or \.pt"):
        adapt_model(run, images, tmp_path / "m.safetensors")
    done = adapt_model(run, images, out, steps=5)
    said = [one.label for one in predict(out, [images])]
    assert done.path == out
    assert len(said) > 12
    assert set(said) <= {str(digit) for digit in range(10)}
