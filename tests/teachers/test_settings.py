"""A device's teachers file, prompts and class names: what is taken and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_app.settings import read_node_config
from client_app.teachers.prompts import texts
from client_app.teachers.settings import read_teachers
from common.config import RunSettings, defaults
from common.errors import SettingsError

CLASSES = ("T-shirt/top", "Bag")


def write(folder: Path, text: str) -> Path:
    path = folder / "teachers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_start_at_the_file(tmp_path: Path):
    text = """
        cache = "kept"
        [[teacher]]
        model = "local-dir:clip"
        [[teacher]]
        model = "ViT-B-32"
        checkpoint = "weights.safetensors"
        weight = 2.0
    """
    settings = read_teachers(write(tmp_path, text))
    assert settings.cache == str(tmp_path / "kept")
    assert settings.teacher[0].model == f"local-dir:{tmp_path / 'clip'}"
    assert settings.teacher[1].checkpoint == str(tmp_path / "weights.safetensors")
    assert [teacher.weight for teacher in settings.teacher] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "teacher"),
        ("[[teacher]]\nmodel = 'ViT-B-32'\nwieght = 2.0", "did you mean"),
        ("[[teacher]]\nmodel = 'ViT-B-32'\nweight = -1.0", "teacher.0.weight"),
        ("[[teacher]]\nmodel = 'ViT-B-32'\ntuning = 'some'", "teacher.0.tuning"),
        ("[[teacher", "not valid TOML"),
        ("[[teacher]]\nmodel = 'local-dir:x'\npretrained = 'openai'", "takes no pretrained"),
        ("[[teacher]]\nmodel = 'hf-hub:o/n'\npretrained = 'openai'", "takes no pretrained"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, named: str):
    with pytest.raises(SettingsError, match=r"teachers\.toml") as caught:
        read_teachers(write(tmp_path, text))
    assert named in str(caught.value)


def test_a_missing_file_says_how_to_go_on(tmp_path: Path):
    with pytest.raises(SettingsError, match="train without one"):
        read_teachers(tmp_path / "none.toml")


def test_teachers_are_a_nodes_own_setting():
    assert read_node_config({"clients": 0, "teachers": "/t.toml"}).teachers == "/t.toml"
    assert not [key for key in defaults(RunSettings) if "teacher" in key]


def test_prompts_of_a_data_set_and_own_ones():
    assert "the digit 7." in texts("digits", ("7", "8"))[0]
    assert texts("folder", ("cat",), ["one {}", "{} and {}"]) == [["one cat", "cat and cat"]]


def test_class_names_are_spoken_and_overridden():
    assert texts("fashion-mnist", CLASSES, ["{}"]) == [["t-shirt"], ["Bag"]]
    assert texts("fashion-mnist", CLASSES, ["{}"], {"Bag": "handbag"})[1] == ["handbag"]
    assert texts("folder", ("sea_lion",), ["{}"]) == [["sea lion"]]


@pytest.mark.parametrize(
    ("prompts", "names", "message"),
    [
        (["a photo"], {}, "placeholder"),
        ([], {"Bags": "bag"}, "no class 'Bags'; near: Bag"),
        ([], {"Bag": " "}, "empty"),
        ([], {"Bag": "t-shirt"}, "several classes are called 't-shirt'"),
    ],
)
def test_wrong_prompts_and_names(prompts: list[str], names: dict[str, str], message: str):
    with pytest.raises(SettingsError, match=message):
        texts("fashion-mnist", CLASSES, prompts, names)
