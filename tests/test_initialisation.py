"""The model that a run starts from."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torchvision import models

from common.config import RunSettings
from common.errors import ModelError
from common.modelfile import load_model
from common.models import build
from deploy.simulate import simulate
from server_app.initialisation import initial_model
from server_app.settings import ServerSettings


def settings(model: str, weights: str, channels: int = 3, size: int = 32) -> RunSettings:
    data = {"channels": channels, "image-size": size}
    return RunSettings.model_validate({"model": model, "pretrained-weights": weights, "data": data})


def start(model: str, weights: Any, channels: int = 3, size: int = 32) -> dict[str, torch.Tensor]:
    return initial_model(settings(model, str(weights), channels, size), 10).module.state_dict()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file where torchvision would put the one that it fetches, with other numbers."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints" / "mobilenet_v2-b0353104.pth"
    path.parent.mkdir()
    torch.manual_seed(7)
    state = models.mobilenet_v2(weights=None).state_dict()
    # As in torchvision's own older files.
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    return path


@pytest.mark.parametrize("by", ["tag", "file"])
def test_grey_images_get_the_sum_over_the_colours_and_the_head_stays(published: Path, by: str):
    given = torch.load(published, weights_only=True)
    told: list[str] = []
    run = settings("mobilenet_v2", "IMAGENET1K_V1" if by == "tag" else str(published), 1, 28)
    state = initial_model(run, 10, told.append).module.state_dict()
    fresh = build("mobilenet_v2", classes=10, channels=1, image_size=28).state_dict()
    for name, tensor in given.items():
        if name.startswith("classifier"):
            assert torch.equal(state[name], fresh[name])
        elif name != "features.0.0.weight":
            assert torch.equal(state[name], tensor)
    grey = torch.randn(1, 1, 8, 8)
    seen = torch.nn.functional.conv2d(grey, state["features.0.0.weight"])
    colour = torch.nn.functional.conv2d(grey.expand(1, 3, 8, 8), given["features.0.0.weight"])
    torch.testing.assert_close(seen, colour)
    assert "its own initialisation keeps classifier.1.weight, classifier.1.bias" in told[0]


def test_a_stem_of_another_size_stays_and_an_own_checkpoint_fits_whole(tmp_path: Path):
    torch.manual_seed(3)
    theirs = models.resnet18(weights=None).state_dict()
    torch.save({"state_dict": theirs}, tmp_path / "resnet18.pth")
    state = start("resnet18", tmp_path / "resnet18.pth")
    assert state["conv1.weight"].shape[2:] == (3, 3)
    assert torch.equal(state["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])
    assert torch.equal(state["bn1.running_var"], theirs["bn1.running_var"])
    own = build("cnn-tiny", classes=10, channels=3, image_size=32, seed=9).state_dict()
    safetensors.torch.save_file(own, tmp_path / "own.safetensors")
    state = start("cnn-tiny", tmp_path / "own.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())


def test_without_network_the_message_says_which_file_to_bring_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ModelError) as caught:
        start("resnet18", "IMAGENET1K_V1")
    place = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    message = str(caught.value)
    assert f"Bring https://download.pytorch.org/models/{place.name} to {place}" in message
    assert "name that file as pretrained-weights" in message


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("resnet18", "IMAGENET1K_V2", "has no weights 'IMAGENET1K_V2'; it has IMAGENET1K_V1"),
        ("cnn-small", "IMAGENET1K_V1", "publishes none for model 'cnn-small'"),
        ("resnet18", "gone.pth", "no checkpoint gone.pth: not a file"),
        ("resnet18", "torn.pth", "torn.pth cannot be read"),
        ("resnet18", "mobilenet.pth", "not weights of this model: there is no bn1.weight"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, weights: str, message: str
):
    monkeypatch.chdir(tmp_path)
    torch.save(models.mobilenet_v2(weights=None).state_dict(), "mobilenet.pth")
    Path("torn.pth").write_bytes(Path("mobilenet.pth").read_bytes()[:1000])
    with pytest.raises(ModelError, match=message):
        start(model, weights)


def test_a_run_begins_with_the_weights_and_no_round_when_they_are_wrong(tmp_path: Path):
    weights = build("cnn-tiny", classes=10, channels=1, image_size=8, seed=9).state_dict()
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(weights, file)
    config = {"method": "fedavg", "rounds": 0, "data.sources": 2, "data.targets": 2}
    server = ServerSettings(runs=tmp_path / "runs")
    told: list[str] = []
    folder = simulate(config | {"pretrained-weights": str(file)}, server, told.append)
    assert any("cnn-tiny starts from" in line for line in told)
    state = load_model(folder / "models" / "last.safetensors")[0].module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    with pytest.raises(ModelError, match="no checkpoint"):
        simulate(config | {"pretrained-weights": "gone.pth"}, server, told.append)
    assert [path for path in (tmp_path / "runs").iterdir() if path.is_dir()] == [folder]


def test_a_run_starts_from_the_model_of_another(small_run: Callable[..., Path]):
    """The server first, then the fleet."""
    options = {"rounds": 1, "augfl.lambda": 0.0}
    first = small_run("augfl", options | {"run-name": "first", "seed": 3})
    model = first / "models" / "last.safetensors"
    options |= {"rounds": 0, "pretrained-weights": str(model)}
    second = small_run("fedavg", options | {"run-name": "second"})
    trained, taken = (load_model(f / "models/last.safetensors")[0].vector for f in (first, second))
    assert torch.equal(trained, taken)
    damaged = model.with_name("damaged.safetensors")
    damaged.write_bytes(model.read_bytes()[:-4] + b"ABCD")
    with pytest.raises(ModelError, match="checksum"):
        small_run("fedavg", {"run-name": "third", "pretrained-weights": str(damaged)})
