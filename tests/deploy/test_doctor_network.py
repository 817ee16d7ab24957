import http.server
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from flwr.common.constant import NOOP_FLWR_AID
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
    NodeAuthServerInterceptor,
)
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.cli.flower_superlink import _run_fleet_api_grpc_rere
from flwr.superlink.federation import NoOpFederationManager

from common.errors import SettingsError
from deploy.doctor import address, fleet_api
from deploy.doctor.address import check_reachable, split_address
from deploy.doctor.encryption import check_ca, check_encryption
from deploy.doctor.identity import check_identity, check_key
from deploy.doctor.server import check_certificate, check_control_port
from deploy.provision import certificates as x509
from deploy.provision import provision as fleet
from deploy.provision.keys import public_pem
from deploy.provision.registry import read_registry
from deploy.provision.settings import parse_fleet

TIMEOUT = 3.0


def make_fleet(folder: Path, now: datetime | None = None, names: tuple[str, ...] = ("a.org",)):
    server = {"names": list(names)}
    fleet.provision(parse_fleet({"server": server, "nodes": {"pi-1": {}, "pi-2": {}}}), folder, now)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fleet(tmp_path_factory.mktemp("fleet"))


@dataclass
class SuperLink:
    """Flower's own Fleet API, in this process."""

    port: int
    states: LinkStateFactory

    def admit(self, folder: Path, name: str) -> int:
        key = public_pem(read_registry(folder).nodes[name].public_key)
        return self.states.state().create_node(NOOP_FLWR_AID, "owner", key, 30)


@contextmanager
def superlink(certificates: tuple[bytes, bytes, bytes] | None) -> Iterator[SuperLink]:
    objects = ObjectStoreFactory()
    states = LinkStateFactory(":flwr-in-memory:", NoOpFederationManager(), objects)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = _run_fleet_api_grpc_rere(
        address=f"127.0.0.1:{port}",
        state_factory=states,
        objectstore_factory=objects,
        enable_supernode_auth=True,
        certificates=certificates,
        interceptors=[NodeAuthServerInterceptor(states)],
    )
    try:
        yield SuperLink(port, states)
    finally:
        server.stop(None).wait()


def certificates(folder: Path) -> tuple[bytes, bytes, bytes]:
    ca, certificate, key = (
        (folder / "server" / name).read_bytes() for name in ("ca.crt", "server.crt", "server.key")
    )
    return ca, certificate, key


@pytest.fixture(scope="module")
def link(folder: Path) -> Iterator[SuperLink]:
    with superlink(certificates(folder)) as running:
        running.admit(folder, "pi-1")
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[SuperLink]:
    with superlink(None) as running:
        yield running


@contextmanager
def web(folder: Path | None) -> Iterator[int]:
    """A web server, with TLS when a fleet is given."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    if folder:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server/server.crt", folder / "server/server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def ca(folder: Path) -> Path:
    return folder / "ca/ca.crt"


def test_addresses():
    assert split_address("a.org:9092") == ("a.org", 9092)
    assert split_address("[::1]:9092") == ("::1", 9092)
    for bad in ("a.org", "a.org:", "a.org:0", "a.org:99999", "a.org:http"):
        with pytest.raises(SettingsError, match="host:port"):
            split_address(bad)


def test_reachable(link: SuperLink):
    assert check_reachable("127.0.0.1", link.port).status == "ok"


def test_a_name_that_does_not_resolve():
    assert "cannot be resolved" in check_reachable("no-such-host.invalid", 9092).cause


def test_a_port_that_refuses():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        finding = check_reachable("127.0.0.1", unused.getsockname()[1])
    assert "refuses connections" in finding.cause
    assert "start the SuperLink" in finding.remedy


def test_packets_that_are_dropped():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        place = full.getsockname()
        held = []
        for _ in range(4):  # fills the queue, so that further calls get no answer
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(place)
            held.append(client)
        finding = check_reachable(*place, timeout=0.3)
        for client in held:
            client.close()
    assert "does not answer" in finding.cause
    assert "firewall" in finding.remedy


def test_the_right_ca_is_accepted_under_strict_rules(folder: Path, link: SuperLink):
    finding = check_encryption("127.0.0.1", link.port, ca(folder), timeout=TIMEOUT)
    assert finding.status == "ok"
    strict = ssl.create_default_context(cafile=str(ca(folder)))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    strict.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", link.port), TIMEOUT) as connection,
        strict.wrap_socket(connection, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.version() == "TLSv1.3"


def test_a_wrong_ca(tmp_path: Path, link: SuperLink):
    other = make_fleet(tmp_path)
    finding = check_encryption("127.0.0.1", link.port, ca(other), timeout=TIMEOUT)
    assert finding.status == "error"
    assert "another authority" in finding.cause
    assert "copy ca.crt" in finding.remedy


def test_the_systems_authorities_do_not_know_the_fleet(link: SuperLink):
    finding = check_encryption("127.0.0.1", link.port, None, timeout=TIMEOUT)
    assert "another authority" in finding.cause


def test_a_wrong_name(folder: Path, link: SuperLink, monkeypatch):
    # The container's own host name resolves to an address that the server listens on.
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )
    finding = check_encryption("other.org", link.port, ca(folder), timeout=TIMEOUT)
    assert finding.status == "error"
    assert "is for a.org, localhost, 127.0.0.1, ::1, control, not other.org" in finding.cause
    assert "server.names" in finding.remedy


def test_a_certificate_that_ended_and_one_of_the_future(tmp_path: Path):
    now = datetime.now(UTC).replace(microsecond=0)
    for name, day, cause in (
        ("old", now - timedelta(days=400), "has ended"),
        ("early", now + timedelta(days=30), "valid from"),
    ):
        made = make_fleet(tmp_path / name, day)
        with superlink(certificates(made)) as running:
            finding = check_encryption("127.0.0.1", running.port, ca(made), timeout=TIMEOUT)
        assert finding.status == "error"
        assert cause in finding.cause
        assert "clock" in finding.cause + finding.remedy


def test_a_certificate_that_ends_soon(tmp_path: Path):
    made = make_fleet(tmp_path, datetime.now(UTC).replace(microsecond=0) - timedelta(days=350))
    with superlink(certificates(made)) as running:
        finding = check_encryption("127.0.0.1", running.port, ca(made), timeout=TIMEOUT)
    assert finding.status == "warning"
    assert "provision renew" in finding.remedy


def test_tls_here_and_plaintext_there(folder: Path, plain: SuperLink):
    finding = check_encryption("127.0.0.1", plain.port, ca(folder), timeout=TIMEOUT)
    assert finding.status == "error"
    assert "plaintext gRPC, but this node expects TLS" in finding.cause


def test_plaintext_here_and_tls_there(link: SuperLink):
    finding = check_encryption("127.0.0.1", link.port, None, insecure=True, timeout=TIMEOUT)
    assert finding.status == "error"
    assert "speaks TLS, but this node is set to plaintext" in finding.cause


def test_plaintext_on_both_sides_is_for_loopback(plain: SuperLink, monkeypatch):
    finding = check_encryption("127.0.0.1", plain.port, None, insecure=True, timeout=TIMEOUT)
    assert finding.status == "ok"
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )
    beyond = check_encryption("a.org", plain.port, None, insecure=True, timeout=TIMEOUT)
    assert beyond.status == "error"
    assert "anybody on the way" in beyond.cause


def test_a_web_server_is_no_fleet(folder: Path):
    with web(folder) as port:
        finding = check_encryption("127.0.0.1", port, ca(folder), timeout=TIMEOUT)
    assert "TLS, but not gRPC" in finding.cause
    assert "control port" in finding.cause
    with web(None) as port:
        finding = check_encryption("127.0.0.1", port, ca(folder), timeout=TIMEOUT)
    assert "plaintext web server" in finding.cause


def test_something_else_entirely(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]

        def close_each() -> None:
            for _ in range(3):
                mute.accept()[0].close()

        threading.Thread(target=close_each, daemon=True).start()
        finding = check_encryption("127.0.0.1", port, ca(folder), timeout=TIMEOUT)
    assert "neither TLS nor gRPC" in finding.cause


def test_a_ca_file(folder: Path, tmp_path: Path):
    assert check_ca(ca(folder)).status == "ok"
    assert "cannot be read" in check_ca(tmp_path / "none").cause
    (tmp_path / "ca.crt").write_text("-----BEGIN NOTHING-----")
    assert "not a PEM certificate" in check_ca(tmp_path / "ca.crt").cause
    now = datetime.now(UTC)
    assert "ended on" in check_ca(ca(folder), now + timedelta(days=4000)).cause
    assert check_ca(ca(folder), now + timedelta(days=3640)).status == "warning"
    assert "this clock says" in check_ca(ca(folder), now - timedelta(days=9)).cause


def test_a_key_file(folder: Path, tmp_path: Path):
    key = folder / "nodes/pi-1/node.key"
    assert check_key(key).status == "ok"
    assert check_key(key).cause.startswith("SHA256:")
    loose = tmp_path / "node.key"
    loose.write_bytes(key.read_bytes())
    loose.chmod(0o644)
    assert check_key(loose).remedy == f"chmod 600 {loose}"
    loose.write_bytes((folder / "server/server.key").read_bytes())
    assert "not an unencrypted OpenSSH private key" in check_key(loose).cause
    assert "cannot be read" in check_key(tmp_path / "none").cause


def identity(folder: Path, link: SuperLink, name: str | None) -> dict[str, str]:
    key = folder / f"nodes/{name}/node.key" if name else None
    findings = check_identity(f"127.0.0.1:{link.port}", key, ca(folder))
    return {finding.check: finding.status for finding in findings}


def test_a_registered_key_and_one_that_is_not(folder: Path, link: SuperLink):
    assert identity(folder, link, "pi-1") == {"clock": "ok", "registration": "ok"}
    assert identity(folder, link, "pi-2") == {"clock": "ok", "registration": "error"}
    assert identity(folder, link, None) == {"clock": "ok", "registration": "skipped"}


def test_asking_changes_nothing_at_the_server(folder: Path, link: SuperLink):
    before = [repr(node) for node in link.states.state().get_node_info()]
    identity(folder, link, "pi-1")
    identity(folder, link, "pi-2")
    assert [repr(node) for node in link.states.state().get_node_info()] == before
    assert len(before) == 1


def test_a_revoked_key_is_unknown_again(folder: Path):
    with superlink(certificates(folder)) as running:
        number = running.admit(folder, "pi-2")
        assert identity(folder, running, "pi-2")["registration"] == "ok"
        running.states.state().delete_node(NOOP_FLWR_AID, number)
        assert identity(folder, running, "pi-2")["registration"] == "error"


@pytest.mark.parametrize(
    ("lead", "status", "text"),
    [
        (0.0, "ok", ""),
        (4.0, "warning", "ahead of the server's, close to"),
        (60.0, "error", "60."),
        (-200.0, "warning", "behind the server's, close to"),
        (-1000.0, "error", "behind the server's: signatures are refused"),
        (5000.0, "error", "ahead of"),
        (3e5, "error", "more than two hours"),
    ],
)
def test_clocks(folder: Path, link: SuperLink, monkeypatch, lead: float, status: str, text: str):
    real = fleet_api.now
    monkeypatch.setattr(fleet_api, "now", lambda: real() + timedelta(seconds=lead))
    key = folder / "nodes/pi-1/node.key"
    clock, registration = check_identity(f"127.0.0.1:{link.port}", key, ca(folder))
    assert clock.status == status
    assert text in clock.cause
    if abs(lead) < 7200:
        assert registration.status == "ok"  # known all the same
        measured = float(re.search(r"clock is ([\d.]+) s", clock.cause)[1])  # type: ignore[index]
        assert abs(measured - abs(lead)) < 1.0
    else:
        assert registration.status == "skipped"


def test_a_server_that_is_not_flowers(folder: Path):
    pair = ((folder / "server/server.key").read_bytes(), certificates(folder)[1])
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    findings = check_identity(f"127.0.0.1:{port}", None, ca(folder))
    server.stop(None).wait()
    assert "did not answer as Flower 1.39 does" in findings[0].cause


def test_the_servers_certificate(folder: Path, tmp_path: Path):
    kit = folder / "server"
    assert check_certificate(kit, ["a.org"]).status == "ok"
    assert "does not name b.org" in check_certificate(kit, ["a.org", "b.org"]).cause
    now = datetime.now(UTC)
    assert "ended on" in check_certificate(kit, ["a.org"], now + timedelta(days=400)).cause
    assert check_certificate(kit, ["a.org"], now + timedelta(days=350)).status == "warning"
    other = make_fleet(tmp_path / "other") / "server"
    for name in ("server.key", "ca.crt"):
        kept = (other / name).read_bytes()
        (other / name).write_bytes((kit / name).read_bytes())
        assert f"does not belong to {name}" in check_certificate(other, ["a.org"]).cause
        (other / name).write_bytes(kept)
    (other / "server.key").chmod(0o640)
    assert "mode 0640" in check_certificate(other, ["a.org"]).cause
    (other / "server.crt").write_text("x")
    assert "damaged" in check_certificate(other, ["a.org"]).cause
    (other / "server.crt").unlink()
    assert "cannot be read" in check_certificate(other, ["a.org"]).cause


def test_a_control_port_that_others_can_reach(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as control:
        port = control.getsockname()[1]
        assert check_control_port(["127.0.0.1", "localhost"], port).status == "ok"
        connect = socket.create_connection
        monkeypatch.setattr(
            address.socket,
            "create_connection",
            lambda place, timeout: connect(("127.0.0.1", place[1]), timeout),
        )
        finding = check_control_port(["a.org"], port)
    assert finding.status == "error"
    assert "run code on every node" in finding.cause


def test_names_of_a_certificate_without_any(folder: Path):
    assert x509.names_in(ca(folder).read_bytes()) == []
    assert os.fspath(ca(folder)).endswith("ca.crt")


def test_a_ca_that_is_none_is_named(link: SuperLink, tmp_path: Path):
    (tmp_path / "bad.crt").write_text("no certificate")
    for name in ("bad.crt", "gone.crt"):
        finding = check_encryption("127.0.0.1", link.port, tmp_path / name, timeout=TIMEOUT)
        assert finding.status == "error"
        assert f"{name} cannot be used as the CA's certificate" in finding.cause
