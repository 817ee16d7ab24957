"""Nobody but the holder of its key can say that a device is online."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
    NodeAuthServerInterceptor,
)
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from deploy.provision import provision as fleet
from deploy.provision.keys import load_private_key, new_private_key
from deploy.provision.settings import parse_fleet
from deploy.superlink_adaptations.activation import ADAPTATION, REFUSAL
from tests.deploy.test_doctor_network import SuperLink, superlink

LONGEST = 1800.0  # heartbeat interval that Flower takes, s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet")
    settings = {"server": {"names": ["a.org"]}, "nodes": {"victim": {}, "other": {}}}
    fleet.provision(parse_fleet(settings), path)
    return path


@pytest.fixture
def link(folder: Path) -> Iterator[SuperLink]:
    with superlink(None) as running:
        for name in ("victim", "other"):
            running.admit(folder, name)
        yield running


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "_wrap_method_handler"  # put back afterwards
    monkeypatch.setattr(NodeAuthServerInterceptor, name, getattr(NodeAuthServerInterceptor, name))
    ADAPTATION.apply()


def key_of(folder: Path, name: str) -> ec.EllipticCurvePrivateKey:
    return load_private_key((folder / f"nodes/{name}/node.key").read_bytes(), name)


class Caller:
    """Somebody with a key."""

    def __init__(self, link: SuperLink, key: ec.EllipticCurvePrivateKey) -> None:
        self.stub = FleetStub(grpc.insecure_channel(f"127.0.0.1:{link.port}"))
        self._key = key
        self.public = public_key_to_bytes(key.public_key())

    def signed(self) -> tuple[tuple[str, str | bytes], ...]:
        time = now().isoformat()
        return (
            (PUBLIC_KEY_HEADER, self.public),
            (TIMESTAMP_HEADER, time),
            (SIGNATURE_HEADER, sign_message(self._key, time.encode("ascii"))),
        )

    def activate(self, public: bytes, interval: float = LONGEST) -> int:
        request = ActivateNodeRequest(public_key=public, heartbeat_interval=interval)
        return self.stub.ActivateNode(request, timeout=10, metadata=self.signed()).node_id

    def deactivate(self, node: int) -> None:
        request = DeactivateNodeRequest(node_id=node)
        self.stub.DeactivateNode(request, timeout=10, metadata=self.signed())


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("attacker", ["a device of the fleet", "anybody"])
def test_a_device_is_not_marked_online_by_another_key(folder: Path, link: SuperLink, attacker: str):
    own = key_of(folder, "other")
    if attacker == "anybody":
        own = load_private_key(new_private_key(), "new")
    victim, liar = Caller(link, key_of(folder, "victim")), Caller(link, own)
    with pytest.raises(grpc.RpcError) as refusal:
        liar.activate(victim.public)
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refusal.value.details() == REFUSAL
    node = victim.activate(victim.public, 30.0)
    assert link.states.state().get_node_info(node_ids=[node])[0].status == "online"


@pytest.mark.usefixtures("guarded")
def test_devices_come_and_go_and_come_again(folder: Path, link: SuperLink):
    for name in ("victim", "other"):
        device = Caller(link, key_of(folder, name))
        node = device.activate(device.public)
        device.deactivate(node)
        assert device.activate(device.public) == node


@pytest.mark.usefixtures("guarded")
def test_what_flower_checks_is_still_checked(folder: Path, link: SuperLink):
    victim, other = (Caller(link, key_of(folder, name)) for name in ("victim", "other"))
    node = victim.activate(victim.public)
    with pytest.raises(grpc.RpcError, match="Invalid node ID"):
        other.deactivate(node)
    stranger = Caller(link, load_private_key(new_private_key(), "new"))
    with pytest.raises(grpc.RpcError, match="Failed to activate"):
        stranger.activate(stranger.public)
    with pytest.raises(grpc.RpcError, match="heartbeat"):
        victim.activate(victim.public, 0.0)


def test_flower_by_itself_lets_anybody_lock_a_device_out(folder: Path, link: SuperLink):
    """When this fails, Flower has mended it: the adaptation can go."""
    victim = Caller(link, key_of(folder, "victim"))
    Caller(link, load_private_key(new_private_key(), "new")).activate(victim.public)
    with pytest.raises(grpc.RpcError, match="Failed to activate"):
        victim.activate(victim.public)


def test_public_keys_are_for_their_owners_alone(folder: Path):
    """By its public key anybody can keep a device out, where the SuperLink is not adapted."""
    lines = [(folder / f"nodes/{name}/node.pub").read_bytes() for name in ("victim", "other")]
    holders = [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(line.split()[1] in path.read_bytes() for line in lines)
    ]
    assert {path.name for path in holders} == {
        "node.pub", "victim.pub", "other.pub", "nodes.json", "fleet.json"
    }  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    for archive in folder.rglob("*.tar.gz"):
        with tarfile.open(archive) as kit:
            named = {Path(member.name).name: member.mode for member in kit if member.isfile()}
        held = named.keys() & {path.name for path in holders}
        assert held
        assert {named[name] for name in held} == {0o600}
