"""Weights & Biases: what the library itself has written offline; that it resumes, by a stand-in."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import SettingsError
from server_app.monitoring.callbacks import Follower, identity, named
from server_app.monitoring.status import Status
from server_app.monitoring.watch import Watch
from server_app.settings import ServerSettings
from tests.monitoring.made import META, close, line

wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")

_BLOCK = 32768  # bytes; no piece of a record goes over the end of one
_HEADER = 7  # bytes of the file, and of each piece


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "HOME": str(tmp_path / "home"), "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield
    wandb.teardown()


def records(folder: Path) -> Iterator[Any]:
    """All records of the one offline run in a run's folder; the file is a log as LevelDB's."""
    wandb.teardown()  # its process may still be writing
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    content, position, whole = path.read_bytes(), _HEADER, b""
    while position + _HEADER < len(content):
        if _BLOCK - position % _BLOCK < _HEADER:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        whole += content[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in {1, 4}:  # whole, or the last piece
            yield Record.FromString(whole)
            whole = b""


def history(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records(folder)
        if record.HasField("history")
    ]


def tell(tmp_path: Path, how: str) -> Path:
    (tmp_path / "trial").mkdir()
    status, notices = Status(), list[str]()
    follower = Follower(named("wandb"), status, tmp_path, notices.append)
    status.begin(META, 3)
    close(status, 0, 1, 2)
    status.phase(2, how)
    follower.close()
    assert notices == []
    return tmp_path / "trial"


def test_a_runs_settings_and_figures(tmp_path: Path) -> None:
    folder = tell(tmp_path, "stopped")
    [run] = [record.run for record in records(folder) if record.HasField("run")]
    assert (run.display_name, run.project, run.run_id) == ("trial", "augflower", identity(META))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["data.name"] == "digits"
    assert config["versions"] == {"augflower": "0.1.0"}
    found = history(folder)
    assert [row["_step"] for row in found] == [0, 1, 2]
    assert [row["accuracy/after"] for row in found] == pytest.approx([0.5, 0.6, 0.7])
    assert [row.get("method/rho") for row in found] == [None, 0.7, 0.7]
    [ended] = [
        item.value_json
        for record in records(folder)
        if record.HasField("summary")
        for item in record.summary.update
        if item.key == "ended"
    ]
    assert json.loads(ended) == "stopped"
    [code] = [record.exit.exit_code for record in records(folder) if record.HasField("exit")]
    assert code == 1


def test_figures_alone_are_told(tmp_path: Path) -> None:
    folder = tell(tmp_path, "finished")
    [run] = [record.run for record in records(folder) if record.HasField("run")]
    assert not run.host
    kinds = {record.WhichOneof("record_type") for record in records(folder)}
    assert not kinds & {"output", "output_raw", "stats", "files", "environment"}
    content = b"".join(path.read_bytes() for path in folder.rglob("*.wandb"))
    assert META["token"].encode() not in content


def test_a_run_that_is_taken_up_goes_on_where_it_was() -> None:
    class Run:
        step = 2  # the next one that it awaits

        def log(self, data: dict[str, float], step: int, commit: bool) -> None:
            told.append((step, data["accuracy/after"], commit))

    told: list[Any] = []
    callback: Any = named("wandb")
    callback._run = Run()
    for round in range(4):
        callback.round(line(round) | {"missing": 0, "rejected": 0})
    assert told == [(2, pytest.approx(0.7), True), (3, pytest.approx(0.8), True)]


def test_nobody_is_asked_for_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()
    with pytest.raises(SettingsError, match="nobody is logged in; say wandb login, set WANDB_API"):
        named("wandb")


def test_a_real_run_and_its_resumption(tmp_path: Path, small_run: Callable[..., Path]) -> None:
    server = ServerSettings(runs=tmp_path, callbacks=("wandb",))
    config = {"run-name": "real", "rounds": 2}
    with Watch(server, print) as watch:
        folder = small_run("fedavg", config, server=server, status=watch.status)
    assert [row["_step"] for row in history(folder)] == [0, 1, 2]
    for path in folder.glob("wandb/offline-run-*"):
        path.rename(path.with_name("earlier"))
    with Watch(server, print) as watch:
        small_run(
            "fedavg", config | {"rounds": 3, "resume": True}, server=server, status=watch.status
        )
    assert [row["_step"] for row in history(folder)] == [0, 1, 2, 3]  # offline has no memory
