"""Devices whose own folders change during a run: its images are those that it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client_app import device
from client_app.app import app
from deploy.run_config import default_config
from server_app.app import run
from server_app.settings import ServerSettings
from server_app.transport.in_process import InProcessGrid

CONFIG = {
    "method": "fedavg", "data.name": "folder", "data.class-names": "x,y", "data.image-size": 8,
    "data.channels": 1, "round.nodes": 3, "rounds": 2, "evaluation.every": 1,
    "round.deadline": 20.0, "round.return-timeout": 0.0, "round.wait": 20.0, "run-name": "own",
}  # fmt: skip


def draw(folder: Path, *numbers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two sources and a target; what is given happens after round 0."""
    for place, name in enumerate("abc"):
        for label, kind in enumerate("xy"):
            draw(
                tmp_path / name / kind,
                *range(100 * place + 50 * label, 100 * place + 50 * label + 8),
            )

    def go(change: Callable[[InProcessGrid], None]) -> list[dict[str, Any]]:
        nodes = [
            {"data-folder": str(tmp_path / name), "role": "target" if name == "c" else "source"}
            for name in "abc"
        ]
        config = default_config() | CONFIG
        grid = InProcessGrid(app, nodes, config)

        def notice(text: str) -> None:
            if text.startswith("round 0/"):
                change(grid)
                device._DEVICES.clear()  # as in a fleet, where each message has its own process

        server = ServerSettings(runs=tmp_path / "runs", cache=tmp_path / "cache")
        monkeypatch.setattr(device, "_DEVICES", type(device._DEVICES)())
        folder = run(grid, config, server, notice)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return go


def test_images_that_are_added_count_from_the_next_run_on(play, tmp_path: Path):
    def add(_: InProcessGrid) -> None:
        draw(tmp_path / "a" / "x", *range(900, 905))
        draw(tmp_path / "c" / "y", *range(910, 915))
        draw(tmp_path / "b" / "class that the run does not know", 920, 921)

    lines = play(add)
    assert [line["rejected"] for line in lines] == [[], [], []]
    assert [line["replies"] for line in lines[1:]] == [2, 2]
    assert {entry["examples"] for line in lines[1:] for entry in line["clients"]} == {16}
    assert len({line["evaluation"]["examples"] for line in lines}) == 1


def test_the_run_goes_on_without_images_that_are_removed(play, tmp_path: Path):
    def remove(_: InProcessGrid) -> None:
        for name in "ac":
            for path in sorted((tmp_path / name / "x").iterdir())[:5]:
                path.unlink()

    lines = play(remove)
    assert [line["rejected"] for line in lines] == [[], [], []]
    assert [sorted(e["examples"] for e in line["clients"]) for line in lines[1:]] == [[11, 16]] * 2
    assert 0 < lines[1]["evaluation"]["examples"] < lines[0]["evaluation"]["examples"]


def test_a_device_without_a_single_one_of_its_images_says_so(play, tmp_path: Path):
    def replace(_: InProcessGrid) -> None:
        for label, kind in enumerate("xy"):
            for path in (tmp_path / "a" / kind).iterdir():
                path.unlink()
            draw(tmp_path / "a" / kind, *range(900 + 50 * label, 905 + 50 * label))

    lines = play(replace)
    (missing,) = lines[1]["missing"]
    assert "none of the 16 images that this device began the run with" in missing["reason"]
    assert lines[1]["replies"] == 1


def test_a_device_that_has_lost_the_list_is_told_what_to_do(play, tmp_path: Path):
    def forget(grid: InProcessGrid) -> None:
        draw(tmp_path / "a" / "x", *range(900, 905))
        draw(tmp_path / "c" / "y", *range(910, 925))
        for context in grid.contexts.values():
            context.state.clear()  # a SuperNode without state-folder was restarted

    lines = play(forget)
    reasons = {entry["step"]: entry["reason"] for entry in lines[1]["rejected"]}
    assert reasons["training"].startswith("21, enrolled with 16; ")
    assert all("give it a state-folder" in reason for reason in reasons.values())
    assert reasons.keys() == {"training", "evaluation"}
