"""``augflower node`` ends with what is wrong and how to remedy it, and waits for what may come."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import FleetError, SettingsError
from deploy import node
from deploy.diagnosis import diagnose
from deploy.doctor import fleet_api
from deploy.doctor.target import Device
from deploy.environment import flower_environment
from deploy.fleet import importable
from deploy.node import NodeOptions, free_port
from deploy.processes import Process, stop_all
from tests.deploy.test_doctor_network import certificates, make_fleet, superlink, web

Start = Callable[..., Process]
HERE = ("127.0.0.1",)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fleet(tmp_path_factory.mktemp("fleet"), names=HERE)


def device(fleet: Path, port: int, **other: Path) -> Device:
    known = {"ca": fleet / "ca/ca.crt", "key": fleet / "nodes/pi-1/node.key"}
    return Device(server=f"127.0.0.1:{port}", **(known | other))


def causes(device: Device, config: str = "", *, known: bool = False) -> list[str]:
    return [f"{f.check}: {f.cause}" for f in diagnose(device, config, known=known)]


def test_what_is_wrong_is_found_by_another_process(fleet: Path, tmp_path: Path):
    other = make_fleet(tmp_path / "other", names=HERE)
    old = make_fleet(tmp_path / "old", datetime.now(UTC) - timedelta(days=400), names=HERE)
    with superlink(certificates(fleet)) as link:
        link.admit(fleet, "pi-1")
        assert causes(device(fleet, link.port), "clients='3'", known=True) == []
        (cause,) = causes(device(fleet, link.port, ca=other / "ca/ca.crt"))
        assert cause.startswith("TLS: the server's certificate is from another authority")
        stranger = device(fleet, link.port, key=fleet / "nodes/pi-2/node.key")
        assert causes(stranger) == [], "the server was asked though nobody wanted it"
        (cause,) = causes(stranger, known=True)
        assert cause.startswith("registration: the server does not know this key")
        (cause,) = causes(device(fleet, link.port), "clients='3' data-foldr='/srv'")
        assert cause.startswith("node settings: unknown setting")
    with superlink(certificates(old)) as link:
        (cause,) = causes(device(old, link.port))
        assert cause.startswith("TLS: by this device's clock")
    with web(fleet) as port:
        (cause,) = causes(device(fleet, port))
        assert f"port {port} speaks TLS, but not gRPC" in cause
    (cause,) = causes(device(fleet, free_port()))
    assert cause.startswith("server: ")
    assert "refuses connections" in cause


def test_a_clock_that_is_wrong_is_found(fleet: Path, monkeypatch: pytest.MonkeyPatch):
    now = fleet_api.now
    monkeypatch.setattr(fleet_api, "now", lambda: now() + timedelta(seconds=60))
    with superlink(certificates(fleet)) as link:
        link.admit(fleet, "pi-1")
        (cause,) = causes(device(fleet, link.port), known=True)
    assert cause.startswith("clock: this clock is 60")


def test_an_address_and_a_port_are_looked_at_first(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SettingsError, match="write host:port"):
        NodeOptions("localhost", insecure=True)
    monkeypatch.setattr(node, "_TAKEN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FleetError, match=f"port {port} cannot be used .*: end what has it"):
            node.run_node(NodeOptions(insecure=True, port=port))


@pytest.fixture
def start(tmp_path: Path, fleet: Path) -> Iterator[Start]:
    started: list[Process] = []

    def run(port: int, key: str = "pi-1", ca: Path | None = None) -> Process:
        options = {
            "--superlink": f"127.0.0.1:{port}",
            "--root-certificates": str(ca or fleet / "ca/ca.crt"),
            "--auth": str(fleet / "nodes" / key / "node.key"),
        }
        command = [sys.executable, "-m", "deploy.node", "--preload", "numpy"]
        command += [part for option in options.items() for part in option]
        environment = importable(flower_environment(tmp_path / "flower"))
        started.append(Process("node", command, environment, tmp_path / "node.log"))
        started[-1].start()
        return started[-1]

    yield run
    stop_all(started, 8.0)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.deploy
def test_a_node_ends_with_the_finding(fleet: Path, tmp_path: Path, start: Start):
    with superlink(certificates(fleet)) as link:
        process = start(link.port, key="pi-2")
        wait_for(lambda: not process.running)
        assert "error: the SuperNode ended with" in process.output()
        assert "registration: the server does not know this key" in process.output()
        assert "augflower provision register" in process.output()
        other = make_fleet(tmp_path / "other", names=HERE)
        process = start(link.port, ca=other / "ca/ca.crt")
        wait_for(lambda: not process.running)
        said = process.output().strip()
        assert said.splitlines()[-1].startswith(
            "error: TLS: the server's certificate is from anoth"
        )
        assert "Traceback" not in said


@pytest.mark.deploy
def test_a_node_waits_for_a_server_that_is_not_there_yet(start: Start):
    process = start(free_port())
    wait_for(lambda: "Connection attempt failed" in process.output())
    assert "refuses connections" in process.output()
    assert process.running
