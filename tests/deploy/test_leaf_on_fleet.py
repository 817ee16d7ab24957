"""A tree of real processes: a server, two leaves, and devices behind them, over gRPC with TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.tensorfile import parse
from deploy.node import free_port
from deploy.run_config import default_config
from deploy.simulate import simulate
from server_app.settings import ServerSettings
from tests.deploy.test_fleet_guide import Terminal

CONFIG = {
    "method": "augfl", "augfl.lambda": 0.0, "rounds": 3, "evaluation.every": 3, "data.sources": 4,
    "data.targets": 4, "round.deadline": 120.0,
}  # fmt: skip


def server(**more: object) -> dict[str, object]:
    return {"names": ["127.0.0.1"], "fleet-port": free_port(), "control-port": free_port()} | more


def settings() -> dict[str, object]:
    nodes: dict[str, dict[str, object]] = {f"leaf-{n}": {"leaf": server()} for n in (1, 2)}
    for client in range(4):
        behind = {"behind": f"leaf-{1 + client // 2}"} if client < 3 else {}
        nodes[f"device-{client}"] = {"clients": str(client), **behind}
    nodes["device-4"] = {"clients": "4-7", "behind": "leaf-2"}
    for name in (name for name in nodes if name.startswith("device")):
        nodes[name] |= {"port": free_port(), "threads": 1}  # whose number decides the last bits
    return {"name": "tree", "server": server(), "nodes": nodes}


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with closing(Terminal(tmp_path)) as terminal:
        yield terminal


def model(folder: Path) -> np.ndarray:
    path = folder / "models/last.safetensors"
    return parse(path.read_bytes(), str(path))[0]["model"].vector


@pytest.mark.deploy
@pytest.mark.timeout(600)
def test_a_tree_of_processes_ends_in_the_model_of_a_flat_fleet(tmp_path: Path, terminal: Terminal):
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(settings()))
    terminal.play(["provision", "fleet.yaml"])
    terminal.stay(
        ["up", "--kit", "fleet", "--state", "state"],
        lambda said: said.count(": online") == 7,
    )
    chosen = [w for key, value in CONFIG.items() for w in ("-s", f"{key}={json.dumps(value)}")]
    words = ["run", "--kit", "fleet/server", "--name", "tree", *chosen]
    run = terminal.stay(words, lambda said: "round 0/3" in said)
    assert run.wait(400) == 0
    said = terminal.staying[-1][1].read_text()
    assert said.count("4/4 replies") == 3
    tree = tmp_path / "runs/tree"
    flat = simulate(default_config() | CONFIG, ServerSettings(runs=tmp_path / "flat"), print)
    np.testing.assert_array_equal(model(flat), model(tree))
    meta = json.loads((tree / "run.json").read_text())
    leaves = {meta["nodes"][node]: leaf for node, leaf in meta["leaves"].items()}
    assert leaves == {
        "device-0": "leaf-1", "device-1": "leaf-1", "device-2": "leaf-2", "device-4": "leaf-2"
    }  # fmt: skip
    assert sorted(meta["nodes"].values()) == [f"device-{number}" for number in range(5)]
