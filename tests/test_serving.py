"""What a device keeps for ``augflower serve`` is the model that evaluation evaluated."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_app import serving
from client_app.app import app as client_app
from client_app.settings import read_node_config
from common.errors import SettingsError
from common.modelfile import load_model
from common.packaged import Packaged
from common.serving import IMAGES, MODEL, load_images
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from server_app.app import read_settings
from server_app.settings import ServerSettings
from server_app.transport.in_process import InProcessGrid
from tests.conftest import backbone

SETTINGS = {
    "rounds": 2, "data.sources": 3, "data.targets": 2, "evaluation.every": 1,
    "model": "cnn-tiny", "seed": 3,
}  # fmt: skip


def play(folder: Path, serve: bool, **settings: Any) -> Path:
    chosen = {**SETTINGS, "run-name": folder.name, **settings}
    config = default_config() | chosen
    nodes = node_configs(read_settings(config)[0].data)
    config["round.nodes"] = len(nodes)
    for number, node in enumerate(nodes):
        node["state-folder"] = str(folder / f"node-{number}")
        node["serve"] = serve
    grid = InProcessGrid(client_app, nodes, config)
    return simulate(chosen, ServerSettings(runs=folder / "runs"), lambda _: None, grid=grid)


def evaluated(run: Path) -> dict[str, Any]:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    found: dict[str, Any] = last["evaluation"]
    return found


@pytest.mark.parametrize(
    "model", ["cnn-tiny", "cnn-tiny+head", pytest.param("resnet8x4", marks=pytest.mark.slow)]
)
def test_a_device_that_does_not_train_has_the_model_of_the_last_evaluation(
    tmp_path: Path, model: str
) -> None:
    start = {"pretrained-weights": backbone(tmp_path)} if "+" in model else {}
    run = play(tmp_path / "a", serve=True, method="fedavg", model=model, **start)
    kept = tmp_path / "a" / "node-3" / "serving"
    flat, buffers, card = load_model(kept / MODEL)
    flat.load_buffers(buffers)
    images = load_images(kept / IMAGES)
    assert images is not None
    with torch.inference_mode():
        found = Packaged(flat.module, card).eval()(torch.from_numpy(images[0])).argmax(1).numpy()
    first = evaluated(run)["clients"][0]
    assert len(found) == first["examples"]
    assert (found == images[1]).mean() == pytest.approx(first["accuracy_after"])
    assert (card.run, card.method, card.architecture) == (run.name, "fedavg", model)


def test_keeping_a_model_changes_no_run(tmp_path: Path) -> None:
    runs = [play(tmp_path / str(serve), serve, method="fedavg") for serve in (True, False)]
    models = [load_model(run / "models" / "last.safetensors")[0] for run in runs]
    np.testing.assert_array_equal(models[0].parameters.vector, models[1].parameters.vector)
    assert not (tmp_path / "False" / "node-0" / "serving").exists()


def test_a_device_keeps_its_own_model_and_no_images_that_it_trains_on(tmp_path: Path) -> None:
    play(tmp_path / "a", serve=True, method="fml", rounds=1, **{"own-models": "resnet8x4"})
    kept = tmp_path / "a" / "node-0" / "serving"
    assert load_model(kept / MODEL)[2].architecture == "resnet8x4"
    assert not (kept / IMAGES).exists()
    play(tmp_path / "b", serve=True, method="fedavg", **{"data.test-fraction": 0.25})
    assert load_images(tmp_path / "b" / "node-0" / "serving" / IMAGES) is not None


def test_what_goes_wrong_is_told_and_the_round_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(serving, "write_atomic", fail)
    with caplog.at_level(logging.WARNING):
        run = play(tmp_path / "a", serve=True, method="fedavg")
    assert "No space left on device" in caplog.text
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_it_needs_a_place() -> None:
    with pytest.raises(SettingsError, match="needs a state-folder"):
        _ = read_node_config({"serve": True}).serving
