"""One of ten devices drifts where the public sketch is blind: the run must not follow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from client_app.app import app
from common.config import DataSettings
from common.methods.augfl import Up
from common.sketch import sketch
from common.tensors import Tensors
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from server_app.aggregation.replies import Replies
from server_app.method import Setup, Source
from server_app.methods.augfl import Server, Settings
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from tests.blind_drift import Drifter, blind
from tests.quadratic import take

DATA = DataSettings(sources=10, targets=14)
CONFIG = {
    "rounds": 40, "evaluation.every": 0, "augfl.lambda": 0.0, "augfl.alpha": 0.05,
    "data.sources": 10, "data.targets": 14, "keep-checkpoints": 1,
}  # fmt: skip


def play(folder: Path, attacked: bool) -> list[dict[str, Any]]:
    drifter = Drifter()

    def interfere(message: Message, reply: Message) -> Message:
        at = message.metadata
        if attacked and at.dst_node_id == FIRST_NODE and at.message_type.startswith("train"):
            drifter(reply)
        return reply

    config = default_config() | CONFIG
    grid = InProcessGrid(app, node_configs(DATA), config, interfere=interfere)
    server = ServerSettings(runs=folder, cache=folder / "cache")
    path = simulate(CONFIG, server, lambda _: None, grid=grid)
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("size", [20, 5000, 70_000, 600_000])
def test_the_public_sketch_does_not_see_it(size: int):
    assert np.linalg.norm(sketch(blind(size))) < 1e-3


def test_a_drift_that_the_public_sketch_does_not_see_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("server_app.app.new_secret", lambda: bytes(32))
    honest, attacked = play(tmp_path / "honest", False), play(tmp_path / "attacked", True)
    assert not any(line["rejected"] for line in honest)
    rejected = [
        (line["round"], entry["node"], entry["field"])
        for line in attacked
        for entry in line["rejected"]
    ]
    assert rejected, "it has passed"
    assert rejected[0][0] <= 10
    assert {entry[1:] for entry in rejected} == {(str(FIRST_NODE), "increment")}


def test_what_the_gate_sees_is_where_the_drift_has_gone(tmp_path: Path):
    """The size of a dual that has drifted for long, however the run's secret falls."""
    size, rounds, step = 2000, 40, 0.5
    for secret in range(20):
        start = Tensors.pack({"theta": np.zeros(size, np.float32)})
        server = Server(
            Settings.model_validate({"lambda": 0.0}), Setup(start, secret=b"%d" % secret)
        )
        server.enrol(0, Source(10))
        drift = start.with_vector((step * blind(size)).astype(np.float32))
        for round in range(1, rounds + 1):
            known = server.broadcast(round, 0)
            up = Up(round, 10, 1.0, known.acknowledged, drift, known.dual, 0.0)
            replies = Replies(server)
            seen = take(replies, 0, up)["increment"]
            server.step(round, replies)
        assert rounds * step / 4 < seen < 2 * rounds * step


def test_no_device_is_sent_anything_of_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same messages to all devices, whatever the secret."""
    sent: list[list[bytes]] = []
    for secret in (bytes(32), bytes(range(32))):
        monkeypatch.setattr("server_app.app.new_secret", lambda secret=secret: secret)
        monkeypatch.setattr("server_app.runs.folder.secrets.token_hex", lambda _: "token")
        messages: list[bytes] = []

        def note(message: Message, reply: Message, into: list[bytes] = messages) -> Message:
            names = sorted(message.content)
            into.append(b"".join(_bytes(message.content[name]) for name in names))
            return reply

        config = CONFIG | {"rounds": 3, "run-name": "same"}
        grid = InProcessGrid(app, node_configs(DATA), default_config() | config, interfere=note)
        folder = tmp_path / secret.hex()
        simulate(config, ServerSettings(runs=folder, cache=folder / "c"), lambda _: None, grid=grid)
        kept = folder / "same" / ".secret"
        assert kept.read_text() == secret.hex()
        assert kept.stat().st_mode & 0o777 == 0o600
        sent.append(messages)
    assert len(sent[0]) > 30
    assert sent[0] == sent[1]


def _bytes(record: ArrayRecord | ConfigRecord | MetricRecord) -> bytes:
    return b"".join(name.encode() + repr(value).encode() for name, value in record.items())
