"""``augflower pretrain``: from nothing, or from a given model."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.data.load import load
from deploy.cli import app
from server_app.private.images import as_labels, as_pixels
from server_app.private.pretrained import PretrainedModel
from server_app.private.seen import Seen
from tests.private.small import teacher

SLOW = ["--epochs", "1", "--optimizer", "sgd", "--learning-rate", "1e-9", "--weight-decay", "0"]


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["pretrain", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_folder_is_trained_further_and_remembers_both_trainings(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    command(str(first), "--architecture", "cnn-tiny", "--epochs", "1")
    changed = ["-s", "data.seed=7", "-s", "data.pretrain-images=200"]
    command(str(second), "--start", str(first), *SLOW, *changed)
    one, two = PretrainedModel.load(first), PretrainedModel.load(second)
    assert two.architecture == "cnn-tiny"
    for name, value in one.module.named_parameters():  # a step of 1e-9 leaves what was there
        assert np.allclose(value, two.module.get_parameter(name), atol=1e-5)
    sizes = [(training.settings["data.seed"], len(training.images)) for training in two.seen]
    assert sizes == [(0, 500), (7, 200)]


def test_a_checkpoint_is_trained_further_and_its_origin_stays_unknown(tmp_path: Path):
    names = load("digits").classes
    teacher(names).save(tmp_path / "given")
    (file,) = (tmp_path / "given").glob("*.safetensors")
    command(str(tmp_path / "pm"), "--start", f"cnn-small@{file}", *SLOW)
    earlier, own = PretrainedModel.load(tmp_path / "pm").seen
    assert (earlier.source, earlier.images) == (f"cnn-small@{file}", None)
    assert isinstance(own, Seen)
    assert own.source == "digits"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--learning-rate", "0", "--learning-rate: Input should be greater than 0"),
        ("--optimizer", "adam", "--optimizer: Input should be 'adamw' or 'sgd'"),
        ("--validation-fraction", "1", "--validation-fraction: Input should be less than 1"),
        ("--start", "nowhere", "no private model 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, option: str, value: str, message: str):
    result = CliRunner().invoke(app, ["pretrain", str(tmp_path / "pm"), option, value])
    assert result.exit_code != 0
    assert message in f"{result.output}{result.exception}"


def test_read_only_arrays_are_taken_without_a_warning():
    images, labels = np.zeros((3, 1, 8, 8), np.uint8), np.zeros(3, np.int64)
    for array in (images, labels):
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_pixels(images).shape == (3, 1, 8, 8)
        assert as_labels(labels, 3, 1).tolist() == [0, 0, 0]
