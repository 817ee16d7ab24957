"""What a new device does with a run's model, and what is refused before anything is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import FileError, ModelError
from common.modelfile import Card, load_model, save_model
from common.models import FlatModel, build
from deploy.adapt import adapt_model
from tests.own_images import write_digits


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = FlatModel(build("cnn-tiny", classes=10, channels=1, image_size=8, seed=1))
    card = Card(
        "cnn-tiny", tuple("0123456789"), 1, 8, (0.3,), (0.4,),
        0.05, 1, "support", "augfl", "test",
    )  # fmt: skip
    save_model(tmp_path / "model.safetensors", net.parameters, net.buffers, card)
    return tmp_path / "model.safetensors"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten images of each of two digits."""
    return write_digits(tmp_path / "images", 10)


def test_an_adapted_model_is_another_and_knows_the_task(model: Path, images: Path, tmp_path: Path):
    done = adapt_model(model, images, tmp_path / "out", steps=30)
    assert (done.support, done.query) == (10, 10)
    assert done.after > max(done.before, 0.8)
    before, after = (load_model(path)[0].parameters.vector for path in (model, done.path))
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)


def test_a_run_stands_for_its_last_model(model: Path, images: Path, tmp_path: Path):
    (tmp_path / "run" / "models").mkdir(parents=True)
    model.rename(tmp_path / "run" / "models" / "last.safetensors")
    assert adapt_model(tmp_path / "run", images, tmp_path / "out").path.is_file()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e30])
def test_a_model_that_diverges_is_not_saved(
    alpha: float, steps: int, model: Path, images: Path, tmp_path: Path
):
    with pytest.raises(ModelError, match=r"diverges .*alpha=.*; take a smaller alpha .*0\.05"):
        adapt_model(model, images, tmp_path / "out", alpha=alpha, steps=steps)
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_none_is_named(model: Path, images: Path):
    with pytest.raises(FileError, match=f"cannot write {images}: Is a directory"):
        adapt_model(model, images, images)
    assert not list(images.parent.glob(".images*"))
