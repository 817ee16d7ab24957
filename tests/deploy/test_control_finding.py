"""``augflower run`` and its like say what is wrong with the SuperLink, and the remedy."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from common.errors import FleetError, SettingsError
from deploy.connection import connected
from deploy.doctor.control import check_control
from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet


def make_fleet(folder: Path, now: datetime | None = None, port: int = 8000) -> Path:
    server = {"names": ["127.0.0.1"], "control-port": port}
    fleet.provision(parse_fleet({"server": server, "nodes": {"pi-1": {}}}), folder, now)
    return folder / "server"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fleet(tmp_path_factory.mktemp("fleet"))


@contextmanager
def web(kit: Path | None) -> Iterator[str]:
    """What answers as a Control API does, with TLS when a kit is given."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    if kit:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(kit / "server.crt", kit / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_superlink_that_answers(kit: Path):
    with web(kit) as address:
        assert check_control(address, kit / "ca.crt").status == "ok"
    with web(None) as address:
        assert check_control(address, None).status == "ok"


def test_nothing_listens(kit: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        finding = check_control(f"127.0.0.1:{unused.getsockname()[1]}", kit / "ca.crt")
    assert "refuses connections" in finding.cause
    assert "augflower up" in finding.remedy


def test_another_authority(kit: Path, tmp_path: Path):
    other = make_fleet(tmp_path / "other")
    with web(kit) as address:
        finding = check_control(address, other / "ca.crt")
    assert "another authority" in finding.cause
    assert "copy ca.crt" in finding.remedy


def test_an_authority_that_has_ended(tmp_path: Path):
    old = make_fleet(tmp_path / "old", datetime(2001, 1, 1, tzinfo=UTC))
    with web(old) as address:
        finding = check_control(address, old / "ca.crt")
    assert "ended on 2010" in finding.cause
    assert "augflower provision renew" in finding.remedy


def test_the_wrong_port(kit: Path):
    server = grpc.server(None)  # type: ignore[arg-type]
    pair = ((kit / "server.key").read_bytes(), (kit / "server.crt").read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    finding = check_control(f"127.0.0.1:{port}", kit / "ca.crt")
    server.stop(None).wait()
    assert "is the SuperLink's fleet port" in finding.cause
    assert "control port" in finding.remedy


def test_tls_on_one_side_alone(kit: Path):
    with web(kit) as address:
        assert "speaks TLS" in check_control(address, None).cause
    with web(None) as address:
        assert "does not speak TLS" in check_control(address, kit / "ca.crt").cause


def test_a_kit_says_how_to_reach_its_superlink(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        kit = make_fleet(tmp_path, port=port)
        with (
            pytest.raises(FleetError, match=f"127.0.0.1 port {port} refuses connections.*; start"),
            connected(kit, None, None, False),
        ):
            pass
    for given, said in (
        ((kit, "127.0.0.1:1", None, False), "--kit says all"),
        ((kit.parent / "nodes" / "pi-1", None, None, False), "the kit of a node"),
        ((None, None, None, False), "give either --root-certificates"),
        ((None, "example.org:8000", None, True), "loopback only"),
        ((None, "here", None, True), "write host:port"),
        ((None, "localhost", kit / "ca.crt", False), "write host:port"),
    ):
        with pytest.raises(SettingsError, match=said), connected(*given):
            pass
