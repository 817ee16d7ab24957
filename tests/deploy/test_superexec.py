"""The executor and the server's part of a run outlive errors of the SuperLink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.supercore.heartbeat import make_task_heartbeat_fn_http
from flwr.supercore.runtime import RuntimeHttpClient

from common.errors import FleetError
from common.trouble import endure_trouble
from deploy import superlink
from deploy.fleet import Fleet
from deploy.superexec import ADAPTATION, LONGEST, WITHOUT, retrying
from deploy.superlink_adaptations import bounds
from deploy.warm import _acquire
from server_app.settings import read_server_settings


def failing(status: int, times: int = 10**9) -> Callable[..., Any]:
    """A call that fails with a status so many times, and then says what it was given."""
    left = [times]

    def call(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return arguments
        raise httpx.HTTPStatusError(
            f"status {status}",
            request=httpx.Request("POST", "http://superlink"),
            response=httpx.Response(status),
        )

    return call


def test_flower_is_the_one_that_the_adaptation_was_written_for():
    # Fails when Flower's source changes. Read the functions again before renewing fingerprints.
    assert ADAPTATION.differences() == []


def test_the_executor_asks_again_after_ever_longer_pauses():
    pauses: list[float] = []
    acquire = retrying(failing(500, times=8), pauses.append)
    assert acquire("client", "request") == ("client", "request")
    assert pauses[:3] == [0.5, 1, 2]
    assert max(pauses) == pauses[-1] == LONGEST


def test_a_refusal_ends_the_executor():
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        retrying(failing(404), lambda _: None)()


def test_the_adaptation_is_of_flowers_own_client(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RuntimeHttpClient, "AcquireTask", failing(500, times=1))
    monkeypatch.setattr("deploy.superexec.FIRST", 0.0)
    ADAPTATION.apply()
    assert RuntimeHttpClient.AcquireTask("client", "request") == ("client", "request")  # type: ignore[arg-type,comparison-overlap]


def test_heartbeats_of_the_server_go_on_after_an_error(monkeypatch: pytest.MonkeyPatch):
    for name in ("SendTaskHeartbeat", "PushLogs"):
        monkeypatch.setattr(RuntimeHttpClient, name, failing(500))
    client = RuntimeHttpClient.__new__(RuntimeHttpClient)
    beat = make_task_heartbeat_fn_http(client)
    with pytest.raises(httpx.HTTPStatusError):
        beat()
    assert endure_trouble()
    assert beat() is False, "it is tried again"
    with pytest.raises(httpx.TransportError):
        client.PushLogs("logs")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [WITHOUT, superlink.WITHOUT, bounds.LARGEST])
def test_the_server_lets_the_settings_of_other_processes_be(name: str):
    assert read_server_settings({name: "all"}) == read_server_settings({})


def test_a_devices_executor_asks_again_after_an_error():
    client: Any = SimpleNamespace(AcquireTask=failing(500))
    assert _acquire(client) is None
    client.AcquireTask = failing(403)
    with pytest.raises(httpx.HTTPStatusError):
        _acquire(client)


def test_a_fleets_run_is_asked_about_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fleet = Fleet(tmp_path, [])
    answers: list[Any] = [FleetError("no answer"), FleetError("no answer"), "finished"]

    def status(_: int) -> Any:
        if isinstance(answer := answers.pop(0), FleetError):
            raise answer
        return SimpleNamespace(finished=True, status=answer)

    monkeypatch.setattr(fleet._control, "status", status)
    monkeypatch.setattr("deploy.fleet.time.sleep", lambda _: None)
    assert fleet.wait(1).status == "finished"
