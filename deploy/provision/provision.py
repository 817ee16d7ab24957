"""Make a fleet's folder, and change it: add, renew, revoke.

    fleet/                 0700
      fleet.json           who is admitted, with public keys
      ca/ca.key ca.crt     the authority; move the key off the machine if you like
      server/              the server's kit, and server.tar.gz
      nodes/<name>/        a kit a node, and nodes/<name>.tar.gz

Every step may be repeated: what exists is kept, and what is missing or out of date is made. The
registry is written before kits, so that an interrupted call is finished by the next one.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from common.errors import FleetError, SettingsError
from deploy.provision import certificates as x509
from deploy.provision.issue import authority, kept, server_certificate
from deploy.provision.keys import new_private_key, public_line
from deploy.provision.leaf_kit import leaf_kit
from deploy.provision.node_kit import node_kit
from deploy.provision.registry import FILE, Admitted, Registry, Revoked, read_registry
from deploy.provision.server_kit import server_kit
from deploy.provision.settings import FleetNode, FleetSettings, require_apart, require_leaves
from deploy.provision.store import (
    SECRET,
    locked,
    make_private,
    put,
    put_kit,
    require_free,
    usable,
)


@dataclass
class Outcome:
    """What a call did to a fleet's folder."""

    folder: Path
    added: list[str] = field(default_factory=list)  # nodes with a new key
    removed: list[str] = field(default_factory=list)  # nodes that are out
    changed: list[str] = field(default_factory=list)  # kits to deliver: nodes and "server"
    notes: list[str] = field(default_factory=list)  # what to know or to do
    expiries: dict[str, datetime] = field(default_factory=dict)  # "ca", "server" -> end, UTC


def provision(settings: FleetSettings, folder: Path, now: datetime | None = None) -> Outcome:
    """Make or complete the folder of a fleet.

    Raises
    ------
    SettingsError: a node of the settings was revoked before, or plays another one's client.
    FleetError: the folder is damaged, in use, of another fleet, or holds other things.
    """
    now = now or x509.utc_now()
    with _founded(settings, folder) as known:
        if known.name != settings.name:
            raise FleetError(
                f"{folder} is of the fleet {known.name!r}, not {settings.name!r}: "
                "give another folder, or keep the name"
            )
        require_apart({**_settings(known), **settings.nodes})
        require_leaves({**_settings(known), **settings.nodes})
        registry = known.model_copy(update={"server": settings.server})
        outcome = Outcome(folder)
        registry = _admit(registry, settings.nodes, outcome, now)
        for name in registry.nodes.keys() - settings.nodes.keys():
            outcome.notes.append(
                f"{name} is admitted though the settings do not name it; if it should not be: "
                f"augflower provision revoke {name}"
            )
        return _write(registry, outcome, now)


def add(folder: Path, name: str, node: FleetNode, now: datetime | None = None) -> Outcome:
    """Admit one more node.

    Raises
    ------
    SettingsError: the name was revoked before, or the node plays another one's client.
    FleetError: there is such a node, or no fleet in ``folder``.
    """
    now = now or x509.utc_now()
    with _opened(folder) as registry:
        if name in registry.nodes:
            raise FleetError(f"{name} is admitted already; a new key comes from renewing it")
        require_apart({**_settings(registry), name: node})
        require_leaves({**_settings(registry), name: node})
        outcome = Outcome(folder)
        return _write(_admit(registry, {name: node}, outcome, now), outcome, now)


def renew(
    folder: Path, within: timedelta = timedelta(days=30), now: datetime | None = None
) -> Outcome:
    """Renew the certificates that end within a span of time; says when each of them ends.

    Raises
    ------
    FleetError: no fleet in ``folder``, or a CA key is needed and missing.
    """
    now = now or x509.utc_now()
    with _opened(folder) as registry:
        return _write(registry, Outcome(folder), now, within)


def renew_node(folder: Path, name: str, now: datetime | None = None) -> Outcome:
    """Give a node a new key; its old one is revoked.

    Raises
    ------
    FleetError: no such node.
    """
    return _drop(folder, name, "renewed", now or x509.utc_now())


def revoke(folder: Path, name: str, now: datetime | None = None) -> Outcome:
    """Put a node out for good: its kit is deleted and its key marked as revoked.

    The SuperLink learns it from :func:`deploy.provision.register.register`.

    Raises
    ------
    FleetError: no such node.
    """
    return _drop(folder, name, "revoked", now or x509.utc_now())


@contextmanager
def _founded(settings: FleetSettings, folder: Path) -> Iterator[Registry]:
    """The registry of a fleet, begun if there is none, held for one writer."""
    with usable(folder):
        if not (folder / FILE).exists():
            require_free(folder, leftover=f".{FILE}.")
            make_private(folder)
    with locked(folder):
        if not (folder / FILE).exists():
            # First of all files: by it the next call knows the folder, should this one not end.
            empty = Registry(version=1, name=settings.name, server=settings.server)
            put(folder / FILE, empty.text(), SECRET)
        yield read_registry(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[Registry]:
    """The registry of a fleet that is there, held for one writer."""
    read_registry(folder)  # before a lock is left in a folder that holds no fleet
    with locked(folder):
        yield read_registry(folder)


def _drop(folder: Path, name: str, reason: str, now: datetime) -> Outcome:
    with _opened(folder) as known:
        if name not in known.nodes:
            names = ", ".join(known.nodes) or "none"
            raise FleetError(f"no node {name!r} in {folder}; there are: {names}")
        old = known.nodes[name]
        record = Revoked.model_validate(
            {"name": name, "public-key": old.public_key, "since": now.isoformat(), "reason": reason}
        )
        rest = {key: value for key, value in known.nodes.items() if key != name}
        registry = known.model_copy(update={"nodes": rest, "revoked": [*known.revoked, record]})
        outcome = Outcome(folder, removed=[name] if reason == "revoked" else [])
        if reason == "renewed":
            # Gone first: _admit() would take the old key for one that a crash left over.
            shutil.rmtree(folder / "nodes" / name, ignore_errors=True)
            registry = _admit(registry, {name: old.settings}, outcome, now)
        return _write(registry, outcome, now)


def _settings(registry: Registry) -> dict[str, FleetNode]:
    return {name: node.settings for name, node in registry.nodes.items()}


def _admit(
    registry: Registry, nodes: Mapping[str, FleetNode], outcome: Outcome, now: datetime
) -> Registry:
    for name in nodes:
        if gone := registry.gone(name):
            raise SettingsError(
                f"node {name} was revoked on {gone.since}: take it out of the settings, or give "
                "the device another name"
            )
    admitted = dict(registry.nodes)
    for name, node in nodes.items():
        if known := admitted.get(name):
            admitted[name] = known.model_copy(update={"settings": node})
            continue
        path = outcome.folder / "nodes" / name / "node.key"
        if not path.exists():
            put(path, new_private_key(), SECRET)
        admitted[name] = Admitted(
            settings=node,
            public_key=public_line(path.read_bytes(), str(path)),
            since=now.isoformat(),
        )
        outcome.added.append(name)
    return registry.model_copy(update={"nodes": admitted})


def _write(
    registry: Registry, outcome: Outcome, now: datetime, within: timedelta = timedelta(0)
) -> Outcome:
    folder = outcome.folder
    make_private(folder / "nodes")
    put(folder / FILE, registry.text(), SECRET)
    try:
        ca = authority(registry, folder, outcome.notes, now, within)
        key, certificate = server_certificate(
            registry.server, ca, folder, "server", outcome.notes, now, within
        )
        halves = {
            name: server_certificate(
                node.settings.leaf, ca, folder, f"nodes/{name}", outcome.notes, now, within
            )
            for name, node in registry.nodes.items()
            if node.settings.leaf is not None
        }
    except ValueError as problem:
        raise FleetError(
            f"a key or certificate in {folder}/ca, {folder}/server or a leaf's kit is damaged "
            f"({problem}): restore it from a copy"
        ) from None
    secret = kept(folder / "server" / "executor.secret", secrets.token_bytes(48))
    kit = server_kit(registry, ca=ca, certificate=certificate, key=key, secret=secret)
    stale = folder / "server" / "nodes"
    for public in stale.glob("*.pub"):
        if public.stem not in registry.nodes:
            public.unlink()
    if put_kit(folder / "server", kit):
        outcome.changed.append("server")
    for name, node in registry.nodes.items():
        path = folder / "nodes" / name / "node.key"
        if not path.exists() or public_line(path.read_bytes(), str(path)) != node.public_key:
            outcome.notes.append(
                f"{name}: the private key that was admitted is no longer here, so its kit was left "
                f"as it is; `augflower provision renew {name}` makes a new key"
            )
            continue
        own = path.read_bytes()
        if name in halves:
            secret = kept(path.with_name("executor.secret"), secrets.token_bytes(48))
            kit = leaf_kit(
                name, registry, ca=ca, own=own, certificate=halves[name][1], key=halves[name][0],
                secret=secret,
            )  # fmt: skip
        else:
            kit = node_kit(name, registry, own, ca)
        if put_kit(path.parent, kit):
            outcome.changed.append(name)
    # By name: whatever else lies there is not this program's to delete.
    for name in {record.name for record in registry.revoked} - registry.nodes.keys():
        if (folder / "nodes" / name).is_dir():
            shutil.rmtree(folder / "nodes" / name)
        (folder / "nodes" / f"{name}.tar.gz").unlink(missing_ok=True)
    outcome.expiries = {"ca": x509.expiry(ca), "server": x509.expiry(certificate)}
    return outcome
