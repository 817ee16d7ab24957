"""Teachers through a real ``--node-config``: SuperNodes, gRPC, and a device that lacks one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.fleet import Fleet, NodeSpec
from deploy.simulate import node_configs
from tests.tiny_teacher import DATA, teachers_file, tiny_teacher

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]


def test_a_mixed_fleet_distils_where_it_can(tmp_path: Path):
    table = f'model = "local-dir:{tiny_teacher()}"'
    wrong = teachers_file(tmp_path / "wrong", 'model = "local-dir:gone"')
    files = [
        teachers_file(tmp_path / "good", table),
        teachers_file(tmp_path / "cramped", table, head="memory = 1"),
        None,
    ]
    configs = node_configs(DATA)
    nodes = [
        NodeSpec(f"device-{n}", config | ({"teachers": str(file)} if file else {}))
        for n, (config, file) in enumerate(zip(configs, files, strict=True))
    ]
    nodes.append(NodeSpec("astray", configs[2] | {"teachers": str(wrong)}))
    settings = {
        "method": "fed_lpfm", "rounds": 2, "run-name": "lpfm", "round.nodes": 3,
        "data.sources": DATA.sources, "data.targets": DATA.targets,
        "data.pretrain-images": DATA.pretrain_images, "fed_lpfm.sgd.lr": 0.05,
    }  # fmt: skip
    server = {"AUGFLOWER_RUNS": str(tmp_path / "runs")}
    with Fleet(tmp_path / "fleet", nodes, server_environment=server) as fleet:
        run = fleet.submit(ROOT, settings)
        ended = fleet.wait(run, timeout=150)
        astray = str(fleet.node_ids["astray"])
        log = fleet.log("superexec").read_text(encoding="utf-8")
    assert (ended.status, ended.result) == ("finished", "completed"), log
    record = (tmp_path / "runs" / "lpfm" / "metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, record[1:]):
        assert astray not in [entry["node"] for entry in line["clients"]]
        told = {entry["client"]: entry.get("without") for entry in line["clients"]}
        assert told == {"0": None, "1": "no room", "2": "no teacher"}
        assert line["method"]["distilled"] == 1
        assert line["method"]["distillation_loss"] > 0
    kinds = {path.name.partition("-")[0] for path in (tmp_path / "good").rglob("*.safetensors")}
    assert kinds == {"classifier", "embeddings", "logits"}
    assert not list((tmp_path / "cramped").rglob("logits-*"))
