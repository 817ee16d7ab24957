"""Kits of a tree: who is admitted where, by which names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import SettingsError
from deploy.doctor.target import Device, Server, read_kit
from deploy.provision import certificates as x509
from deploy.provision.provision import add, provision
from deploy.provision.settings import parse_fleet, parse_node
from server_app.clients.bindings import misfits, read_bindings

LEAF = {"names": ["leaf.example.org"], "fleet-port": 9192, "control-port": 8100}
TREE: dict[str, Any] = {
    "server": {"names": ["fleet.example.org"]},
    "nodes": {
        "leaf-1": {"leaf": LEAF},
        "device-1": {"clients": 0, "behind": "leaf-1"},
        "device-2": {"clients": "1-5"},
    },
}


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    provision(parse_fleet(TREE), tmp_path / "fleet")
    return tmp_path / "fleet"


def admitted(kit: Path) -> set[str]:
    return set(json.loads((kit / "nodes.json").read_text())["admitted"])


def test_each_superlink_admits_the_nodes_that_come_to_it(fleet: Path):
    assert admitted(fleet / "server") == {"leaf-1", "device-2"}
    assert admitted(fleet / "nodes/leaf-1") == {"device-1"}


def test_nodes_are_told_to_whom_they_belong(fleet: Path):
    found = {name: read_kit(fleet / "nodes" / name) for name in TREE["nodes"]}
    addresses = {name: kit.server for name, kit in found.items() if isinstance(kit, Device)}
    assert addresses == {
        "leaf-1": "fleet.example.org:9092",
        "device-1": "leaf.example.org:9192",
        "device-2": "fleet.example.org:9092",
    }
    leaf = found["leaf-1"]
    assert isinstance(leaf, Device)
    assert isinstance(leaf.leaf, Server)
    assert (leaf.leaf.fleet_port, leaf.leaf.control_port) == (9192, 8100)
    kit = fleet / "nodes/leaf-1"
    certificate = (kit / "server.crt").read_bytes()
    assert set(x509.names_in(certificate)) >= {"leaf.example.org", "127.0.0.1"}
    assert x509.signed_by(certificate, (kit / "ca.crt").read_bytes())
    assert x509.belongs_to(certificate, (kit / "server.key").read_bytes())
    for secret in ("server.key", "node.key", "executor.secret", "nodes.json"):
        assert (kit / secret).stat().st_mode & 0o077 == 0, secret


def test_the_server_knows_who_stands_behind_which_leaf(fleet: Path):
    bound = read_bindings(fleet / "server/nodes.json")
    assert {name: (b.role, b.leaf) for name, b in bound.items()} == {
        "leaf-1": ("leaf", ""), "device-1": ("source", "leaf-1"), "device-2": ("source", "")
    }  # fmt: skip
    assert misfits(bound, 1, 6) == []


def test_provisioning_again_changes_nothing(fleet: Path):
    outcome = provision(parse_fleet(TREE), fleet)
    assert (outcome.added, outcome.changed) == ([], [])


def test_a_new_device_behind_a_leaf_changes_the_kit_of_that_leaf(fleet: Path):
    outcome = add(fleet, "device-3", parse_node("device-3", {"behind": "leaf-1", "clients": 6}))
    assert {"leaf-1", "device-3"} <= {*outcome.changed, *outcome.added}
    assert admitted(fleet / "nodes/leaf-1") == {"device-1", "device-3"}
    assert admitted(fleet / "server") == {"leaf-1", "device-2"}


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ({"a": {"behind": "b"}}, "no leaf of this fleet"),
        ({"a": {"behind": "b"}, "b": {}}, "no leaf of this fleet"),
        ({"a": {"leaf": LEAF, "clients": 1}}, "clients is for devices"),
        ({"a": {"leaf": LEAF, "behind": "b"}, "b": {"leaf": LEAF}}, "behind is for devices"),
        ({"a": {"leaf": {"names": []}}}, "names"),
        ({"a": {"leaf-socket": "/x"}}, "not for fleet.yaml"),
    ],
)
def test_what_cannot_be_a_tree_is_refused(nodes: dict[str, Any], told: str):
    with pytest.raises(SettingsError, match=told):
        parse_fleet({**TREE, "nodes": nodes})
