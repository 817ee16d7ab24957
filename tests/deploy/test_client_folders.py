"""A simulation whose clients are subfolders of images, as docs/own-images.md says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import augflower
from common.data.load import load
from common.errors import DataError, SettingsError
from deploy.cli import app
from deploy.client_folders import folder_nodes, folder_settings
from deploy.simulate import simulate
from server_app.runs.record import read_meta, read_run
from server_app.settings import ServerSettings

PAIRS = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3))


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    """Five clients, each with twelve images of two of four digits."""
    data, folder = load("digits"), tmp_path / "homes"
    queues = {digit: list(np.flatnonzero(data.labels == digit)) for digit in range(4)}
    for number, pair in enumerate(PAIRS):
        for digit in pair:
            place = folder / f"home-{number}" / f"digit {digit}"
            place.mkdir(parents=True)
            for _ in range(12):
                index = queues[digit].pop()
                pixels = data.pixels(np.array([index]))[0, 0]
                Image.fromarray(pixels).save(place / f"{index}.png")
    (folder / ".hidden").mkdir()
    (folder / "read me.txt").touch()
    return folder


def test_a_model_is_trained_and_evaluated_on_them(homes: Path, tmp_path: Path):
    said: list[str] = []
    run = simulate(
        {"method": "fedavg", "rounds": 8, "fedavg.sgd.lr": 0.1, "fedavg.sgd.epochs": 20,
         "evaluation.every": 0, "run-name": "own"},
        ServerSettings(runs=tmp_path / "runs", cache=tmp_path / "cache"), said.append,
        clients=homes,
    )  # fmt: skip
    assert any(
        "4 clients train, 1 evaluate; 4 classes; images are brought to 8 x 8" in s for s in said
    )
    rounds = read_run(run).rounds
    assert [line.replies for line in rounds] == [0] + [4] * 8
    first, last = rounds[0].evaluation, rounds[-1].evaluation
    assert first is not None
    assert last is not None
    assert last.examples == 20  # all but the support images of home-4
    assert last.accuracy_after > 0.8 > first.accuracy_after
    settings = read_meta(run).settings
    assert settings["data.class-names"] == "digit 0,digit 1,digit 2,digit 3"
    assert (settings["data.sources"], settings["data.targets"]) == (4, 1)


def test_it_is_resumed_bit_for_bit(homes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """AugFL's clients remember their duals, each in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    common = [
        "simulate",
        "--clients",
        str(homes),
        "-s",
        "augfl.lambda=0",
        "-s",
        "evaluation.every=1",
    ]

    def play(*words: str) -> None:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, (done.output, done.exception)

    play(*common, "-s", "rounds=4", "-s", "run-name=whole")
    play(*common, "-s", "rounds=2", "-s", "run-name=cut")
    assert len(list((tmp_path / "runs/cut/devices").iterdir())) == 5
    play("resume", "runs/cut", "--rounds", "4", "--clients", str(homes))
    whole, cut = (tmp_path / "runs" / name / "models/last.safetensors" for name in ("whole", "cut"))
    lines = [
        [json.loads(line)["evaluation"]["loss_after"] for line in file.read_text().splitlines()]
        for file in (f.parents[1] / "metrics.jsonl" for f in (whole, cut))
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 5


def test_a_program_names_the_folder(homes: Path, tmp_path: Path):
    run = augflower.simulate(
        method="fedavg", clients=homes, targets=2, rounds=1, name="own", runs=tmp_path / "runs",
        show=None,
    )  # fmt: skip
    assert (run.settings["data.sources"], run.settings["data.targets"]) == (3, 2)
    assert run.metrics["replies"][1] == 3


def test_what_is_set_holds(homes: Path):
    given = {"data.targets": 2, "data.image-size": 16, "data.channels": 3}
    settings = folder_settings(homes, given | {"data.class-names": "digit-0,1,2,3,4"})
    assert given.items() <= settings.items()
    assert settings["data.sources"] == 3
    assert settings["data.class-names"] == "digit-0,1,2,3,4"
    roles = [node["role"] for node in folder_nodes(homes, 2, None)]
    assert roles == ["source"] * 3 + ["target"] * 2


def test_large_pictures_are_made_small_and_colour_is_kept(homes: Path):
    Image.new("RGB", (400, 300), "red").save(homes / "home-0" / "digit 0" / "large.jpg")
    assert folder_settings(homes, {})["data.channels"] == 3
    for path in homes.rglob("*.png"):
        Image.open(path).resize((90, 60)).save(path)
    assert folder_settings(homes, {})["data.image-size"] == 32


def test_spellings_of_one_class_are_one(homes: Path):
    (homes / "home-0" / "digit 0").rename(homes / "home-0" / "Digit_0")
    assert folder_settings(homes, {})["data.class-names"].count(",") == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.name": "digits"}, "data.name=digits and clients from .* exclude each other"),
        ({"data.targets": 5}, "data.targets=5: of the 5 clients .* at least one must train"),
        ({"data.sources": 2}, "data.sources=2, but .* has 4 clients beside data.targets=1"),
    ],
)
def test_settings_that_do_not_fit(homes: Path, overrides: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        folder_settings(homes, overrides)


def test_folders_that_do_not_fit(homes: Path, tmp_path: Path):
    with pytest.raises(DataError, match="is not a folder; name one that has a subfolder for each"):
        folder_settings(tmp_path / "nowhere", {})
    with pytest.raises(DataError, match="has 1 subfolders; a run needs at least two clients"):
        folder_settings(tmp_path, {})
    with pytest.raises(DataError, match="digit 0 has no subfolders; make one for each class"):
        folder_settings(homes / "home-0", {})
    first, *others = (homes / "home-1" / "digit 2").iterdir()
    for path in others:
        path.unlink()
    with pytest.raises(DataError, match="holds one image of 'digit 2'; at least 2 are needed"):
        folder_settings(homes, {})
    (homes / "home-1" / "digit 2" / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b.png cannot be read as an image"):
        folder_settings(homes, {})
    assert first.exists()
