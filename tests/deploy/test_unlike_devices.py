"""FedProto over gRPC: three devices with three architectures, one of them killed and back, and a
device's own model taken off it for onnxruntime."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from client_app.kept import own_model
from common.config import DataSettings
from common.data.load import load
from common.data.plan import plan
from deploy.bundle import ROOT
from deploy.control import Control
from deploy.environment import flower_environment
from deploy.export import export_model
from deploy.fleet import Fleet, NodeSpec
from deploy.model_file import newcomer
from deploy.simulate import node_configs, simulate
from deploy.submit import run_on_fleet
from server_app.settings import ServerSettings

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]

DATA = DataSettings(sources=3, targets=0, test_fraction=0.3)
MODELS = ("cnn-tiny", "cnn-small", "resnet8x4")
WIDTH = 100
SETTINGS = {
    "method": "fedproto", "rounds": 5, "data.sources": 3, "data.targets": 0, "round.nodes": 3,
    "data.test-fraction": 0.3, "evaluation.who": "sources", "evaluation.every": 5,
    "fedproto.width": WIDTH, "fedproto.sgd.epochs": 3, "round.return-timeout": 90.0,
    "run-name": "unlike",
    "own-models": ",".join(MODELS),
}  # fmt: skip


def test_three_architectures_one_of_them_killed(tmp_path: Path):
    home = tmp_path / "fleet"
    # Each device says itself which model is its own; the run's setting is for the simulation.
    nodes = [
        NodeSpec(f"node-{n}", config | {"state-folder": str(home / "devices"), "own-model": model})
        for n, (config, model) in enumerate(zip(node_configs(DATA), MODELS, strict=True))
    ]
    server = {"AUGFLOWER_RUNS": str(home / "runs"), "OMP_NUM_THREADS": "1"}
    record, shown = home / "runs" / "unlike" / "metrics.jsonl", list[str]()
    with Fleet(home, nodes, server_environment=server) as fleet:

        def disturb() -> None:
            while not record.exists() or record.read_bytes().count(b"\n") < 3:
                time.sleep(0.02)
            fleet.kill("node-1")
            fleet.restart("node-1")

        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        environment = flower_environment(home / "cli")
        with Control(fleet.address, home / "cli", environment) as control:
            run = Path(run_on_fleet(control, ROOT, SETTINGS, shown.append))
        thread.join(60)
        assert not thread.is_alive(), "it was not killed"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["replies"] for line in lines[1:]] == [3] * 5
    assert not any(line["rejected"] for line in lines)
    held = sum(map(len, classes_held()))
    assert [line["bytes_up"] for line in lines[1:5]] == [held * WIDTH * 4] * 4
    first, last = (lines[n]["evaluation_sources"] for n in (0, 5))
    assert last["accuracy_after"] > first["accuracy_after"]
    alone = simulate(SETTINGS, ServerSettings(runs=tmp_path / "alone"), lambda _: None)
    same = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert same[5]["evaluation_sources"]["loss_after"] == last["loss_after"], "as in one process"
    assert [*run.glob("models/*")] == []
    down = newcomer(run)
    assert down is not None
    pixels = load("digits").pixels(np.arange(64))
    answers = set[bytes]()
    for client, architecture in enumerate(MODELS):
        folder = home / "devices" / "unlike" / f"client-{client}"
        out = export_model(run, "onnx", tmp_path / f"{client}.onnx", folder)
        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        [found] = session.run(["probabilities"], {"images": pixels})
        module, card = own_model(folder, down[0])
        assert card.architecture == architecture
        scaled = (torch.tensor(pixels).float() / 255 - card.mean[0]) / card.std[0]
        with torch.no_grad():
            logits = module(scaled)
        np.testing.assert_allclose(found, logits.softmax(1).numpy(), atol=1e-5)
        answers.add(found.tobytes())
    assert len(answers) == 3, "each device has its own"


def classes_held() -> list[tuple[int, ...]]:
    """Of each source."""
    return [plan(load("digits").labels, DATA).clients[n].classes for n in range(3)]
