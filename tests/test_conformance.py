"""Every method, by existing, must pass these through the real wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

import server_app.methods
from client_app.app import app
from common import registry
from common.config import DataSettings
from common.tensorfile import parse
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import contract
from server_app.transport.in_process import FIRST_NODE, InProcessGrid, Interference
from tests.conftest import needed

METHODS = registry.names(server_app.methods)
TRAINED = [name for name in METHODS if contract(name) is not None]
# Without a private model, R_h is the cross-entropy on the server's labelled images; without
# teachers, there is nothing to distill.
PLAIN = {
    "knowledge.kl": 0.0, "knowledge.crd": 0.0, "knowledge.cross-entropy": 1.0,
    "fed_lpfm.lambda": 0.0, "evaluation.who": "both", "data.test-fraction": 0.3,
}  # fmt: skip

Run = Callable[..., Path]


def model(folder: Path) -> np.ndarray:
    """The last model; where there is none, what the server keeps instead, and how clients do."""
    path = folder / "models/last.safetensors"
    if path.exists():
        return parse(path.read_bytes(), str(path))[0]["model"].vector
    path = max((folder / "checkpoints").glob("*.safetensors"))
    groups = parse(path.read_bytes(), str(path))[0]
    kept = [groups[name].vectors.get("float32", []) for name in sorted(groups)]
    return np.concatenate([*kept, losses(lines(folder)[-1])])


def losses(line: dict[str, Any]) -> list[float]:
    """After adaptation, of every client that evaluates."""
    found = [line["evaluation"], line["evaluation_sources"]]
    return [client["loss_after"] for part in found if part for client in part["clients"]]


def fleet(
    method: str, folder: Path, name: str, interfere: Interference | None = None
) -> InProcessGrid:
    """The devices of a small run, which outlive its server."""
    data = DataSettings(sources=3, targets=4)
    config = default_config() | PLAIN | needed(method, folder)
    config |= {"data.sources": 3, "data.targets": 4, "run-name": name}
    return InProcessGrid(app, node_configs(data), config, interfere=interfere)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_two_rounds_are_finite_and_change_the_model(method: str, small_run: Run):
    folder = small_run(method, PLAIN)
    record = lines(folder)
    assert [line["round"] for line in record] == [0, 1, 2]
    assert np.isfinite(model(folder)).all()
    assert losses(record[0]) != losses(record[2])
    last = record[2]["evaluation"]
    assert last["examples"] == sum(client["examples"] for client in last["clients"])
    assert len(last["clients"]) == 4
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_everything(method: str, small_run: Run):
    one, two = (model(small_run(method, {**PLAIN, "run-name": name})) for name in "ab")
    np.testing.assert_array_equal(one, two)
    other = model(small_run(method, {**PLAIN, "seed": 1}))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("method", TRAINED)
def test_one_client_missing(method: str, small_run: Run):
    def lose(message: Message, reply: Message) -> Message | None:
        train = message.metadata.message_type.startswith("train")
        return None if train and message.metadata.dst_node_id == FIRST_NODE else reply

    folder = small_run(method, {**PLAIN, "round.deadline": 0.1}, interfere=lose)
    for line in lines(folder)[1:]:
        assert line["replies"] == 2
        assert [entry["node"] for entry in line["missing"]] == [str(FIRST_NODE)]
    assert np.isfinite(model(folder)).all()


@pytest.mark.parametrize("method", TRAINED)
def test_a_device_that_is_asked_twice_in_a_round_learns_once(
    method: str, small_run: Run, tmp_path: Path
):
    """Its reply is lost after it was computed: model and memory are as if it had come at once."""
    lost: set[tuple[str, int]] = set()

    def lose(message: Message, reply: Message) -> Message:
        round, node = message.metadata.group_id, message.metadata.dst_node_id
        trains = message.metadata.message_type.startswith("train")
        if trains and (round, node) not in lost and (int(round) + node) % 2:
            lost.add((round, node))
            return Message(Error(2, "lost on the way"), reply_to=message)
        return reply

    found = []
    for name, interfere in (("whole", None), ("lost", lose)):
        grid = fleet(method, tmp_path, name, interfere)
        config = {**PLAIN, "rounds": 4, "round.return-timeout": 5.0, "round.deadline": 20.0}
        folder = small_run(method, {**config, "run-name": name}, grid=grid)
        assert [line["replies"] for line in lines(folder)[1:]] == [3] * 4
        memory = [
            {key: part["content"] for key, part in context.state.config_records.items()}
            for context in grid.contexts.values()
        ]
        found.append((model(folder).tobytes(), memory))
    assert len(lost) == 6
    assert found[0] == found[1]


@pytest.mark.parametrize("method", TRAINED)
def test_under_the_quorum_nothing_changes(method: str, small_run: Run):
    def lose(message: Message, reply: Message) -> Message | None:
        return None if message.metadata.message_type.startswith("train") else reply

    notices: list[str] = []
    folder = small_run(
        method, {**PLAIN, "rounds": 1, "round.deadline": 0.1},
        interfere=lose, notice=notices.append,
    )  # fmt: skip
    record = lines(folder)
    assert losses(record[0])[:4] == losses(record[1])[:4], "of targets; sources have learned"
    assert any("void" in text for text in notices)


@pytest.mark.parametrize("method", METHODS)
def test_resumed_is_bit_identical(method: str, small_run: Run, tmp_path: Path):
    whole = small_run(method, {**PLAIN, "rounds": 4, "run-name": "whole"})
    grid = fleet(method, tmp_path, "cut")
    cut = {**PLAIN, "run-name": "cut"}
    small_run(method, {**cut, "rounds": 2}, grid=grid)
    resumed = small_run(method, {**cut, "rounds": 4, "resume": True}, grid=grid)
    np.testing.assert_array_equal(model(whole), model(resumed))
    assert [line["round"] for line in lines(resumed)] == [0, 1, 2, 3, 4]
