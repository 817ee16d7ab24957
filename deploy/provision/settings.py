"""``fleet.yaml``: the server's names, the nodes, and what each node has.

name: ward
server:
  names: [fleet.example.org, 192.0.2.10]
nodes:
  pi-1: {hardware: raspberry-pi, data-folder: /srv/images}
  pc-1: {clients: 40-59}
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from client_app.settings import NodeSettings
from common.config import Settings, parse
from common.errors import SettingsError

Hardware = Literal["raspberry-pi", "jetson", "pc"]
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


def _server_name(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        if re.fullmatch(r"[\d.]+", name) or not _DNS_NAME.fullmatch(name):
            raise ValueError("neither a DNS name nor an IP address") from None
        return name.lower()


ServerName = Annotated[str, AfterValidator(_server_name)]
# Set by provisioning itself, or by Flower's simulation.
_PROVISIONED = {"state_folder", "leaf_socket", "partition_id", "num_partitions"}
Port = Annotated[int, Field(ge=1, le=65535)]


class ServerSettings(Settings):
    """How devices reach the server, and how long its certificates last."""

    names: list[ServerName] = Field(
        min_length=1, description="DNS names and IP addresses; nodes use the first."
    )
    fleet_port: Port = Field(9092, description="gRPC, the only port that devices need.")
    control_port: Port = Field(8000, description="Runs and registrations; on loopback only.")
    ca_days: int = Field(3650, ge=1, le=36500, description="Validity of the fleet's CA.")
    certificate_days: int = Field(365, ge=1, le=3650, description="Validity of the certificate.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.fleet_port == self.control_port:
            raise ValueError(f"fleet-port and control-port are both {self.fleet_port}")
        return self


class FleetNode(NodeSettings):
    """One device: what it is, and the settings that its ClientApp gets."""

    leaf: ServerSettings | None = Field(
        None, description="It is a leaf, a server to the nodes behind it, which reach it so."
    )
    behind: str = Field("", description="Name of the leaf behind which it stands.")
    hardware: Hardware = Field("pc", description="Class of hardware; sets image and threads.")
    server: ServerName | None = Field(
        None, description="Name under which this node reaches the server, if not the first."
    )
    most_images: int = Field(
        0, ge=0, le=2 * 10**7, description="Its own images, at most; then it counts as it says."
    )
    port: Port = Field(9094, description="Loopback port of the node's own runtime API.")

    serve_port: Port = Field(8070, description="Loopback port of the model at work, with serve.")
    put_aside: bool = Field(False, description="Keep images that the served model is unsure of.")

    @model_validator(mode="after")
    def _on_the_device(self) -> Self:
        for name, path in (("data-folder", self.data_folder), ("teachers", self.teachers)):
            if path and not Path(path).is_absolute():
                raise ValueError(f"{name}={path!r} must be an absolute path on the device")
        if taken := sorted(_PROVISIONED & self.model_fields_set):
            raise ValueError(f"{taken[0].replace('_', '-')} is not for fleet.yaml: leave it out")
        of_devices = NodeSettings.model_fields.keys() | {"behind", "most_images"}
        if self.leaf is not None and (given := sorted(of_devices & self.model_fields_set)):
            raise ValueError(
                f"{given[0].replace('_', '-')} is for devices, and a leaf is none: leave it out"
            )
        return self

    def config(self, **defaults: str | int) -> dict[str, str | int]:
        """What ``flower-supernode --node-config`` gets: the settings given, then ``defaults``."""
        given = self.model_dump(include=set(NodeSettings.model_fields), exclude_defaults=True)
        return {name.replace("_", "-"): value for name, value in {**defaults, **given}.items()}


class FleetSettings(Settings):
    """A whole fleet."""

    name: str = Field("fleet", pattern=r"^[A-Za-z0-9][\w.-]{0,62}$", description="Of the fleet.")
    server: ServerSettings
    nodes: dict[str, FleetNode] = Field(default_factory=dict, description="By name.")


def read_fleet(path: Path) -> FleetSettings:
    """Read and check a ``fleet.yaml``.

    Raises
    ------
    SettingsError: no such file, not YAML, a key twice, an unknown key or a bad value.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextKeys)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not text in UTF-8 ({error})") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold settings such as 'server:' and 'nodes:'")
    return parse_fleet(content)


def parse_fleet(content: Mapping[str, Any]) -> FleetSettings:
    """Check the content of a ``fleet.yaml``; each problem is named with its node.

    Raises
    ------
    SettingsError: an unknown key, a wrong type or a bad value, or a client that two nodes play.
    """
    listed = content.get("nodes") or {}
    if not isinstance(listed, dict):
        raise SettingsError("setting nodes: must be a mapping from a node's name to its settings")
    nodes = {str(name): parse_node(str(name), values or {}) for name, values in listed.items()}
    require_apart(nodes)
    require_leaves(nodes)
    return parse(FleetSettings, {**content, "nodes": nodes}, "")


def parse_node(name: str, values: Mapping[str, Any]) -> FleetNode:
    """Check one node's name and settings.

    Raises
    ------
    SettingsError: the name cannot be a host's name, or a setting is unknown or bad.
    """
    if not NODE_NAME.fullmatch(name) or name == "server":
        raise SettingsError(
            f"node name {name!r}: use 1 to 63 lower-case letters, digits and inner hyphens "
            "('server' is taken)"
        )
    if not isinstance(values, Mapping):
        raise SettingsError(f"setting nodes.{name}: must be a mapping of settings")
    numbered = dict(values)
    if isinstance(numbered.get("clients"), int):  # "clients: 3" needs no quotes
        numbered["clients"] = str(numbered["clients"])
    return parse(FleetNode, numbered, f"nodes.{name}.")


def require_leaves(nodes: Mapping[str, FleetNode]) -> None:
    """Refuse a node behind a leaf that is none.

    Raises
    ------
    SettingsError: it names the node.
    """
    for name, node in nodes.items():
        there = nodes.get(node.behind)
        if node.behind and (there is None or there.leaf is None):
            raise SettingsError(
                f"node {name} stands behind {node.behind!r}, which is no leaf of this fleet: give "
                "that node a setting leaf with its names, or leave out behind"
            )


def require_apart(nodes: Mapping[str, FleetNode]) -> None:
    """Refuse two nodes that play the same client.

    Raises
    ------
    SettingsError: it names both nodes and the client.
    """
    ranges = []
    for name, node in nodes.items():
        if node.clients:
            low, _, high = node.clients.partition("-")
            ranges.append((int(low), int(high or low), name))
    ranges.sort()
    end, owner = -1, ""  # the last client so far, and who plays it
    for first, last, name in ranges:
        if first <= end:
            raise SettingsError(
                f"nodes {owner} and {name} both play client {first}: give each client to one node "
                "(clients), and revoke a node that is gone (augflower provision revoke)"
            )
        end, owner = max((end, owner), (last, name))


class _TextKeys(yaml.SafeLoader):
    """Keys are text as it stands, so that ``1`` and ``yes`` are names, and each stands once.

    Plain YAML would silently drop the first of two nodes, also of ``1`` and ``yes``: to Python,
    1 and True are the same key.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice", key.start_mark
                )
            seen.add(key.value)
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)
