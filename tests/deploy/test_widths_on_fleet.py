"""Devices of three sizes on a real fleet: SuperNodes, gRPC, and a vision transformer in slices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import DataSettings
from common.modelfile import load_model
from common.models import build
from deploy.export import export_model
from deploy.fleet import Fleet, NodeSpec
from deploy.simulate import node_configs

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
MODEL = "timm:test_vit/4"
DATA = DataSettings(sources=3, targets=4)
WIDTHS = (0.0, 0.5, 0.25)
"""Set on the devices; the first is to be measured."""


def parameters(width: float) -> int:
    with torch.device("meta"):
        network = build(f"{MODEL}@{width}", classes=10, channels=1, image_size=8)
    return sum(parameter.numel() for parameter in network.parameters())


def test_three_devices_train_three_sizes_of_a_transformer(tmp_path: Path):
    settings = {
        "method": "raffm", "model": MODEL, "rounds": 3, "run-name": "widths", "round.nodes": 4,
        "data.sources": DATA.sources, "data.targets": DATA.targets, "raffm.draw": "own",
        "evaluation.every": 0,
    }  # fmt: skip
    sources = node_configs(DATA)[: DATA.sources]
    configs: list[dict[str, Any]] = [
        config | ({"width": width} if width else {})
        for config, width in zip(sources, WIDTHS, strict=True)
    ]
    configs.append({"clients": "3-6"})
    nodes = [NodeSpec(f"device-{n}", config) for n, config in enumerate(configs)]
    server = {"AUGFLOWER_RUNS": str(tmp_path / "runs")}
    with Fleet(tmp_path / "fleet", nodes, server_environment=server) as fleet:
        run = fleet.submit(ROOT, settings)
        ended = fleet.wait(run, timeout=300)
        log = fleet.log("superexec").read_text(encoding="utf-8")
    assert (ended.status, ended.result) == ("finished", "completed"), log
    folder = tmp_path / "runs" / "widths"
    record = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    bytes_up = 4 * (parameters(1.0) + parameters(0.5) + parameters(0.25))
    for line in record[1:]:
        assert line["rejected"] == []
        assert {entry["client"]: entry["width"] for entry in line["clients"]} == {
            "0": 1.0, "1": 0.5, "2": 0.25,
        }  # fmt: skip
        assert line["method"]["covered"] == 1
    # Without an evaluation, a round moves the three slices down and up, and nothing else.
    assert [(line["bytes_down"], line["bytes_up"]) for line in record[1:-1]] == [
        (bytes_up, bytes_up)
    ] * 2
    why = {entry["client"]: entry["why"] for entry in record[-1]["clients"]}
    assert "free" in why["0"]
    assert "s a round" in why["0"]
    assert (why["1"], why["2"]) == ("set on the device: 0.5", "set on the device: 0.25")
    assert "set on the device: 0.5" in (folder / "report.html").read_text()
    small = load_model(export_model(folder, "safetensors", tmp_path / "q.safetensors", width=0.25))
    assert len(small[0].vector) == parameters(0.25)
