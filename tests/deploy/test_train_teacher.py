"""The command that makes a small teacher."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from client_app.teachers.clip import Clip
from client_app.teachers.settings import TeacherSettings
from client_app.teachers.source import describe
from client_app.teachers.weights import find_weights
from common.errors import DataError, SettingsError
from deploy.cli import app


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train-teacher", *arguments])


def test_what_it_writes_is_a_teacher(tmp_path: Path):
    folder = tmp_path / "vit"
    options = ["--data", "digits", "--images", "60", "--epochs", "1", "--backbone", "vit"]
    done = invoke(str(folder), *options)
    assert done.exit_code == 0, done.output
    assert "trained on 60 images" in done.output.replace("\n", " ")
    source = describe(TeacherSettings(model=f"local-dir:{folder}"))
    clip = Clip(source, find_weights(source))
    assert clip.classifier([["a photo of a zero."], ["a photo of a one."]]).shape == (2, 64)
    again = tmp_path / "again"
    invoke(str(again), *options)
    weights = "open_clip_model.safetensors"
    assert (again / weights).read_bytes() == (folder / weights).read_bytes()


def test_wrong_options(tmp_path: Path):
    refused = invoke(str(tmp_path), "--backbone", "unet")
    assert refused.exit_code == 2
    assert "choose vit or resnet" in refused.output
    unknown = invoke(str(tmp_path), "--data", "digit")
    assert isinstance(unknown.exception, DataError)
    assert "digits" in str(unknown.exception)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    refused = invoke(str(tmp_path / "file"), "--data", "digits", "--images", "60")
    assert isinstance(refused.exception, SettingsError)
    assert "name a folder for the teacher" in str(refused.exception)


def test_it_explains_itself():
    assert "--backbone" in invoke("--help").output
