"""A simulated client's time is its own, not that of those before it in the queue."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message

from client_app.app import app
from common.config import DataSettings
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.transport.in_process import InProcessGrid
from tests.conftest import SMALL

PAUSE = 0.3


def slow(message: Message, context: Context) -> Message:
    if message.metadata.message_type.startswith("train"):
        time.sleep(PAUSE)
    return app(message, context)


def test_times_do_not_grow_with_the_clients_number(small_run: Callable[..., Path]) -> None:
    config = default_config() | SMALL | {"method": "fedavg"}
    nodes = node_configs(DataSettings(sources=6, targets=4))
    grid = InProcessGrid(slow, nodes, config | {"data.sources": 6})  # type: ignore[arg-type]
    settings = {"data.sources": 6, "round.deadline": 60.0}
    folder = small_run("fedavg", settings, grid=grid)
    for line in (folder / "metrics.jsonl").read_text().splitlines()[1:]:
        seconds = [part["seconds"] for part in json.loads(line)["clients"]]
        assert len(seconds) == 6
        assert all(PAUSE <= value < 3 * PAUSE for value in seconds), seconds
