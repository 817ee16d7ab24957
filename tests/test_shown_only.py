"""Nothing that is only shown ends a run: dates of devices, pages, what a resume puts back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client_app.app import app
from common.config import DataSettings
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.clients.messaging import Answer
from server_app.monitoring import tensorboard
from server_app.monitoring.board import Board
from server_app.monitoring.callbacks import Follower
from server_app.monitoring.status import Status
from server_app.rounds import loop as rounds
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from tests.conftest import SMALL

DATA = DataSettings(sources=SMALL["data.sources"], targets=SMALL["data.targets"])


def record(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("date", [1.7e308, -1.7e308])
def test_a_devices_date_changes_nothing(date: float, small_run: Callable[..., Path]):
    def lie(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == FIRST_NODE:
            reply.metadata.__dict__["_created_at"] = date
        return reply

    grid = InProcessGrid(app, node_configs(DATA), default_config() | SMALL, interfere=lie)
    notices: list[str] = []
    folder = small_run("fedavg", grid=grid, notice=notices.append)
    lines = record(folder)
    assert [line["replies"] for line in lines[1:]] == [3, 3]
    for line in lines[1:]:
        assert all(0 <= entry["seconds"] < 60 for entry in line["clients"])
    assert (folder / "report.html").exists()
    assert not any("could not be shown" in text for text in notices)


def test_an_error_of_what_is_shown_does_not_end_a_run(
    small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> None:
        raise OverflowError("int too large")

    class Broken(Status):
        close = fail  # type: ignore[assignment]

    monkeypatch.setattr(rounds, "write_report", fail)
    monkeypatch.setattr(rounds, "summary", fail)
    notices: list[str] = []
    folder = small_run("fedavg", status=Broken(), notice=notices.append)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert [line["round"] for line in record(folder)] == [0, 1, 2]
    assert "the page could not be shown, the run goes on: OverflowError('int too large')" in notices


def test_an_error_in_tensorboards_files_does_not_end_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("tensorboardX")

    def fail(*_: Any) -> None:
        raise OverflowError("int too large")

    monkeypatch.setattr(tensorboard, "scalars", fail)
    notices: list[str] = []
    status = Status()
    follower = Follower(tensorboard.TensorBoard(), status, tmp_path, notices.append)
    status.begin({"run": "trial"}, 2)
    status.close({"round": 0})
    follower.close()
    said = "TensorBoard is told nothing more, the run goes on: OverflowError('int too large')"
    assert notices == [said]


def test_a_run_goes_on_from_a_record_with_absurd_figures(
    small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    name = {"run-name": "absurd", "rounds": 3}
    with monkeypatch.context() as earlier:  # what an earlier release has written
        earlier.setattr(Answer, "seconds", lambda self, begun: 1.7e308)
        folder = small_run("fedavg", name | {"rounds": 2})
    assert record(folder)[1]["clients"][0]["seconds"] == 1.7e308
    status, notices = Status(), list[str]()
    small_run("fedavg", name | {"resume": True}, status=status, notice=notices.append)
    assert [line["round"] for line in record(folder)] == [0, 1, 2, 3]
    assert not any("could not be shown" in text for text in notices)
    board = Board(status, folder.parent)
    assert "<h1>" in board.render(server="s", nonce="n")
    assert "1.7e308" not in (folder / "report.html").read_text()
