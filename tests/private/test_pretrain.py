"""Training a private model: it learns, keeps its best epoch, and does the same again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from common.errors import DataError, ModelError
from common.models import build
from common.models.preprocessing import Preprocessing
from server_app.private.pretrain import pretrain
from server_app.private.pretrained import PretrainedModel
from server_app.private.settings import PretrainSettings
from tests.private.small import CLASSES, GREY8, teacher

COUNT = 120


def shapes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright bars at three heights, with noise: easy to tell apart."""
    random = np.random.default_rng(seed)
    labels = np.arange(COUNT) % 3
    images = random.integers(0, 120, (COUNT, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 1 + 2 * label : 3 + 2 * label] += 100
    return images, labels


def train(
    folder: Path, start: str | PretrainedModel = "cnn-tiny", **options: object
) -> PretrainedModel:
    images, labels = shapes()
    settings = PretrainSettings.model_validate(
        {"epochs": 4, "batch_size": 16} | options.pop("settings", {})
    )  # type: ignore[operator]
    arguments = {"classes": CLASSES, "preprocessing": GREY8, "settings": settings} | options
    return pretrain(start, folder, images, labels, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("augment", ["none", "crop"])
def test_it_learns_and_reports_its_accuracy(tmp_path: Path, optimizer: str, augment: str) -> None:
    rate = 0.05 if optimizer == "sgd" else 0.01
    settings = {"optimizer": optimizer, "learning_rate": rate, "augment": augment, "epochs": 6}
    model = train(tmp_path / "pm", settings=settings)
    images, labels = shapes(seed=1)
    accuracy = float((model(torch.from_numpy(images))[1].argmax(1).numpy() == labels).mean())
    assert accuracy > 0.9
    assert model.accuracy is not None
    assert model.accuracy > 0.9
    assert (model.architecture, model.classes) == ("cnn-tiny", CLASSES)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    # With dropout, which draws from the global state.
    name = "torchvision:mobilenet_v3_small"
    settings = {"epochs": 1}
    one = train(tmp_path / "1", name, seed=5, settings=settings)
    torch.rand(3)
    two = train(tmp_path / "2", name, seed=5, settings=settings)
    other = train(tmp_path / "3", name, seed=6, settings=settings)
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    # So large a step forgets what was learned now and then.
    console = Console(record=True, width=120)
    model = train(tmp_path, settings={"learning_rate": 0.1, "epochs": 8}, console=console, seed=1)
    text = console.export_text()
    scores = [
        float(line.split("validation ")[1].split("%")[0])
        for line in text.splitlines()
        if line.startswith("epoch")
    ]
    assert len(scores) == 8
    assert len(set(scores)) > 1
    assert model.accuracy == pytest.approx(max(scores) / 100, abs=1e-4)


def test_an_interrupted_training_leaves_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = PretrainedModel.save

    def interrupt(model: PretrainedModel, folder: Path) -> None:
        save(model, folder)
        saved.append(model.fingerprint)
        raise KeyboardInterrupt

    monkeypatch.setattr(PretrainedModel, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert PretrainedModel.load(tmp_path).fingerprint == saved[0]


def test_a_folder_in_use_is_not_overwritten_unasked(tmp_path: Path) -> None:
    teacher().save(tmp_path)
    with pytest.raises(ModelError, match="already holds a private model"):
        train(tmp_path)
    assert PretrainedModel.load(tmp_path).fingerprint == teacher().fingerprint
    train(tmp_path, replace=True)
    assert PretrainedModel.load(tmp_path).fingerprint != teacher().fingerprint


def test_a_given_model_is_trained_further(tmp_path: Path) -> None:
    first = train(tmp_path / "1", settings={"epochs": 6, "learning_rate": 0.01})
    before = first.fingerprint
    slow = {"epochs": 1, "learning_rate": 1e-6}
    second = train(tmp_path / "2", first, settings=slow)
    assert second.accuracy == first.accuracy
    assert first.fingerprint == before != second.fingerprint


def test_a_model_of_other_classes_and_input_gets_a_new_last_layer(tmp_path: Path) -> None:
    colour = Preprocessing(3, 16, (0.5,) * 3, (0.5,) * 3)
    module = build("resnet8x4", classes=5, channels=3, image_size=16)
    start = PretrainedModel("resnet8x4", module, (), colour)
    model = train(tmp_path, start, settings={"epochs": 1})
    assert model.preprocessing == colour
    assert model.classes == CLASSES
    assert model(torch.from_numpy(shapes()[0]))[1].shape == (COUNT, 3)


class TwoHeads(nn.Module):
    """Gives a pair in training, as some networks with auxiliary classifiers do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, images: torch.Tensor) -> object:
        logits = self.head(images.flatten(1))
        return (logits, logits) if self.training else logits


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model is named"):
        train(tmp_path, "cnn-huge")
    with pytest.raises(ModelError, match="cannot take images of 1 x 8 x 8"):
        train(tmp_path, "torchvision:vit_b_32")
    with pytest.raises(ModelError, match="more than logits in training"):
        train(tmp_path, PretrainedModel("two-heads", TwoHeads(), CLASSES, GREY8))
    with pytest.raises(ModelError, match="diverged in epoch 1; lower the learning rate"):
        train(tmp_path, settings={"optimizer": "sgd", "learning_rate": 100.0})
    with pytest.raises(DataError, match="hold out 1%"):
        train(tmp_path, settings={"validation_fraction": 0.01})
    assert not list(tmp_path.iterdir())
