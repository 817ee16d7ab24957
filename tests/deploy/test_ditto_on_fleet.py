"""Ditto over real gRPC: unlike devices, one killed and back, and a personal model taken off."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from common.config import DataSettings
from common.data.load import load
from common.models import FlatModel, build
from common.tensorfile import parse
from deploy.bundle import ROOT
from deploy.control import Control
from deploy.environment import flower_environment
from deploy.export import export_model
from deploy.fleet import Fleet, NodeSpec
from deploy.simulate import node_configs, simulate
from deploy.submit import run_on_fleet
from server_app.settings import ServerSettings

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]

DATA = DataSettings(sources=3, targets=1, test_fraction=0.25)
SETTINGS = {
    "method": "ditto", "rounds": 5, "data.sources": 3, "data.targets": 1, "round.nodes": 4,
    "data.test-fraction": 0.25, "evaluation.who": "both", "evaluation.every": 5,
    "round.return-timeout": 90.0, "run-name": "ditto", "ditto.mu": 0.5, "ditto.sgd.lr": 0.1,
}  # fmt: skip
KILLED = "node-1"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A device with a memory in a folder, one of its own folder, one that forgets with its node."""
    home = tmp_path_factory.mktemp("fleet")
    more: list[dict[str, Any]] = [
        {"state-folder": str(home / "devices"), "threads": 1},
        {"state-folder": str(home / "card" / "memory"), "threads": 2},
        {},
        {},
    ]
    nodes = [
        NodeSpec(f"node-{n}", config | own)
        for n, (config, own) in enumerate(zip(node_configs(DATA), more, strict=True))
    ]
    server = {"AUGFLOWER_RUNS": str(home / "runs"), "OMP_NUM_THREADS": "1"}
    with Fleet(home, nodes, database=True, server_environment=server) as fleet:
        yield fleet


def own(memory: Path) -> np.ndarray[Any, Any]:
    """The personal model in a device's memory."""
    path = memory / "ditto.safetensors"
    return parse(path.read_bytes(), str(path))[0]["own"].vector


def shared(run: Path) -> np.ndarray[Any, Any]:
    path = run / "models/last.safetensors"
    return parse(path.read_bytes(), str(path))[0]["model"].vector


def test_a_device_is_killed_and_back_and_its_model_is_taken_off(fleet: Fleet, tmp_path: Path):
    record = fleet.home / "runs" / "ditto" / "metrics.jsonl"

    def disturb() -> None:
        while not record.exists() or record.read_bytes().count(b"\n") < 3:
            time.sleep(0.02)
        fleet.kill(KILLED)
        fleet.restart(KILLED)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    environment = flower_environment(fleet.home / "cli")
    with Control(fleet.address, fleet.home / "cli", environment) as control:
        run = Path(run_on_fleet(control, ROOT, SETTINGS, lambda _: None))
    thread.join(60)
    assert not thread.is_alive(), "nothing was killed"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["replies"] for line in lines[1:]] == [3] * 5

    # What came of it is what comes of the same run in one process that nobody disturbs.
    server = ServerSettings(runs=tmp_path / "runs", cache=tmp_path / "cache")
    memory = tmp_path / "devices"
    calm = simulate(SETTINGS, server, lambda _: None, memory=memory)
    np.testing.assert_allclose(shared(run), shared(calm), atol=1e-6)
    folders = [fleet.home / "devices", fleet.home / "card" / "memory"]
    for client, folder in enumerate(folders):
        mine, expected = (own(at / "ditto" / f"client-{client}") for at in (folder, memory))
        np.testing.assert_allclose(mine, expected, atol=1e-6)
        assert not np.allclose(mine, shared(run), atol=1e-3), "it is personal"
    last = lines[-1]["evaluation_sources"]
    assert [entry["client"] for entry in last["clients"]] == ["0", "1", "2"]
    assert last["accuracy_after"] > last["accuracy_commonest"]

    # The killed device's personal model, in another runtime.
    place = folders[1] / "ditto" / "client-1"
    pixels = load("digits").pixels(np.arange(30))
    written = export_model(None, "onnx", tmp_path / "own.onnx", place)
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    [answers] = session.run(["probabilities"], {"images": pixels})
    model = FlatModel(build("cnn-tiny", classes=10, channels=1, image_size=8))
    model.load(torch.tensor(own(place)))
    digits = load("digits")
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (digits.mean, digits.std))
    with torch.no_grad():
        logits = model.module.eval()((torch.tensor(pixels).float() / 255 - mean) / std).numpy()
    scores = np.log(answers)  # logits, but for a constant an image
    np.testing.assert_allclose(
        scores - scores.mean(1, keepdims=True), logits - logits.mean(1, keepdims=True), atol=1e-3
    )
