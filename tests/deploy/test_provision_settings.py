import re
from pathlib import Path

import pytest

from common.errors import SettingsError
from deploy.provision.loopback import is_loopback, require_loopback
from deploy.provision.settings import FleetSettings, parse_fleet, read_fleet

SERVER = {"names": ["fleet.example.org", "192.0.2.10"]}


def fleet(**nodes: object) -> FleetSettings:
    return parse_fleet({"name": "ward", "server": SERVER, "nodes": nodes})


def test_defaults_are_flowers_ports_and_loopback_is_implied():
    settings = fleet(pc=None)
    assert settings.server.fleet_port == 9092
    assert settings.server.control_port == 8000
    assert settings.nodes["pc"].hardware == "pc"


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        ({"pi-1": {"hardwear": "jetson"}}, "nodes.pi-1.hardwear; did you mean nodes.pi-1.hardware"),
        ({"pi-1": {"hardware": "amiga"}}, "nodes.pi-1.hardware"),
        ({"pi-1": {"port": 70000}}, "nodes.pi-1.port"),
        ({"pi-1": {"data-folder": "images"}}, "data-folder='images' must be an absolute path"),
        ({"pi-1": {"teachers": "clip.toml"}}, "teachers='clip.toml' must be an absolute path"),
        ({"pi-1": {"state-folder": "/tmp"}}, "state-folder is not for fleet.yaml"),
        ({"pi-1": {"partition-id": 0}}, "partition-id is not for fleet.yaml"),
        ({"pi-1": {"clients": "three"}}, "nodes.pi-1.clients"),
        ({"pi-1": {"role": "boss"}}, "nodes.pi-1.role"),
        ({"Pi_1": {}}, "node name 'Pi_1'"),
        ({"../../etc": {}}, "node name '../../etc'"),
        ({"server": {}}, "'server' is taken"),
        ({"pi-1": ["jetson"]}, "nodes.pi-1"),
    ],
)
def test_a_bad_node_is_refused_by_name(nodes, named):
    with pytest.raises(SettingsError) as raised:
        fleet(**nodes)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("server", "named"),
    [
        ({"names": []}, "server.names"),
        ({"names": ["bad name"]}, "neither a DNS name nor an IP address"),
        ({"names": ["300.1.1.1"]}, "neither a DNS name nor an IP address"),
        ({"names": ["a" * 64 + ".org"]}, "neither a DNS name nor an IP address"),
        ({"names": ["a.org"], "fleet-port": 8000}, "both 8000"),
        ({"names": ["a.org"], "portt": 1}, "server.portt"),
        ({}, "server.names"),
    ],
)
def test_a_bad_server_is_refused_by_name(server, named):
    with pytest.raises(SettingsError) as raised:
        parse_fleet({"server": server})
    assert named in str(raised.value)


def test_the_node_config_holds_what_was_given_and_what_provisioning_adds():
    node = fleet(pi={"clients": 3, "hardware": "raspberry-pi"}).nodes["pi"]
    assert node.config(threads=3) == {"threads": 3, "clients": "3"}
    assert fleet(pi={"threads": 2}).nodes["pi"].config(threads=3) == {"threads": 2}


def test_yaml_with_a_node_twice_is_refused(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_text("server: {names: [a.org]}\nnodes:\n  pi: {}\n  pi: {port: 9095}\n")
    with pytest.raises(SettingsError, match="'pi' occurs twice"):
        read_fleet(path)


def test_names_that_yaml_takes_for_numbers_or_truths_are_names(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    nodes = "  1: {clients: 0}\n  yes: {clients: 1}\n  0x1: {clients: 2}\n"
    path.write_text(f"server: {{names: [a.org]}}\nnodes:\n{nodes}")
    found = read_fleet(path).nodes
    assert {name: node.clients for name, node in found.items()} == {
        "1": "0",
        "yes": "1",
        "0x1": "2",
    }


def test_shared_settings_may_be_merged(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "server: {names: [a.org]}\nnodes:\n  a: &pi {hardware: raspberry-pi}\n  b: {<<: *pi}\n"
    )
    assert read_fleet(path).nodes["b"].hardware == "raspberry-pi"


def test_what_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SettingsError, match=r"fleet\.yaml is not text in UTF-8"):
        read_fleet(path)
    path.write_text("? [a, b]\n: c\n")
    with pytest.raises(SettingsError, match="a key must be text"):
        read_fleet(path)


@pytest.mark.parametrize(
    ("first", "second", "client"), [("0-3", "2-5", 2), ("4", "4", 4), ("7", "0-9", 7)]
)
def test_a_client_that_two_nodes_play_is_named_with_both(first: str, second: str, client: int):
    with pytest.raises(SettingsError) as raised:
        fleet(p={"clients": first}, other={"clients": "20"}, q={"clients": second})
    assert re.match(rf"nodes [pq] and [pq] both play client {client}:", str(raised.value))


def test_neighbouring_clients_are_apart():
    assert len(fleet(p={"clients": "0-3"}, q={"clients": "4"}, r={}, s={}).nodes) == 4


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "nodes: [pi]\nserver: {names: [a.org]}"])
def test_what_is_no_fleet_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        read_fleet(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"none\.yaml cannot be read"):
        read_fleet(tmp_path / "none.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_insecure_is_allowed_on_loopback_and_says_what_it_means(host):
    assert is_loopback(host)
    assert "no TLS and no authentication" in require_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "localhost.example.org", "::", ""])
def test_insecure_is_refused_beyond_loopback(host):
    with pytest.raises(SettingsError, match="loopback only"):
        require_loopback(host)
