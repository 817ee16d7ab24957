"""Light networks for small images, and their ImageNet weights where those are."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
from torchvision import models

from common.errors import ModelError
from common.models import build, features_and_logits
from common.models.pretrained import load_imagenet

# The published sizes with 10 classes; the stem of ResNet18 is 3x3 instead of 7x7.
PARAMETERS = {"mobilenet_v2": 2_236_682, "efficientnet_b0": 4_020_358, "resnet18": 11_173_962}


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_image_shrinks_by_eight_before_the_pool(name: str):
    model = build(name, classes=10, channels=3, image_size=32).eval()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    sizes: list[int] = []

    def note(_: object, __: object, output: torch.Tensor) -> None:
        sizes.append(output.shape[-1])

    last = model.get_submodule("layer4" if name == "resnet18" else "features")
    last.register_forward_hook(note)
    for size in (28, 32, 64):
        features, logits = features_and_logits(model, torch.randn(2, 3, size, size))
        assert logits.shape == (2, 10)
        assert features.shape[1] in (512, 1280)
    assert sizes == [4, 4, 8]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_imagenet_stem_is_there_too(name: str):
    model = build(f"torchvision:{name}", classes=10, channels=1, image_size=224).eval()
    assert model(torch.randn(1, 1, 224, 224)).shape == (1, 10)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file such as torchvision would fetch, of other numbers."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    path.parent.mkdir()
    torch.manual_seed(7)
    torch.save(models.mobilenet_v2(weights=None).state_dict(), path)
    return path


def test_everything_that_fits_is_copied(weights: Path):
    given = torch.load(weights, weights_only=True)
    model = build("mobilenet_v2", classes=10, channels=1, image_size=28)
    kept = load_imagenet(model, "mobilenet_v2")
    assert kept == ["classifier.1.weight", "classifier.1.bias"]
    state = model.state_dict()
    assert all(torch.equal(state[k], given[k]) for k in state if k not in kept and "0.0" not in k)
    grey = torch.randn(1, 1, 8, 8)
    stem = torch.nn.functional.conv2d(grey.expand(1, 3, 8, 8), given["features.0.0.weight"])
    own = torch.nn.functional.conv2d(grey, state["features.0.0.weight"])
    torch.testing.assert_close(own, stem)


def test_weights_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    model = build("resnet18", classes=10, channels=3, image_size=32)
    with pytest.raises(ModelError) as caught:
        load_imagenet(model, "resnet18")
    assert "bring https://download.pytorch.org/models/resnet18-f37072fd.pth" in str(caught.value)
    assert str(tmp_path / "checkpoints" / "resnet18-f37072fd.pth") in str(caught.value)


def test_a_damaged_file_and_a_model_without_weights(weights: Path):
    weights.write_bytes(weights.read_bytes()[:1000])
    model = build("mobilenet_v2", classes=10, channels=3, image_size=32)
    with pytest.raises(ModelError, match="cannot be had"):
        load_imagenet(model, "mobilenet_v2")
    with pytest.raises(ModelError, match="no ImageNet weights for model 'cnn-small'"):
        load_imagenet(model, "cnn-small")
