"""All checks of a device or a server, one after the other; none of them can stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from client_app.settings import read_node_config
from common.errors import AugFlowerError, SettingsError
from deploy.doctor import board, folders, resources, server, versions, widths
from deploy.doctor.address import check_reachable, split_address
from deploy.doctor.clients import check_clients, check_fleet
from deploy.doctor.encryption import check_ca, check_encryption
from deploy.doctor.finding import Finding, error, ok, skipped
from deploy.doctor.identity import check_identity, check_key
from deploy.doctor.processor import check_atomics, check_torch
from deploy.doctor.sizes import weigh_models, weigh_private_model
from deploy.doctor.target import Device, Server
from deploy.doctor.teacher import check_teachers
from deploy.provision.places import join_address

Check = Callable[[], Finding | list[Finding]]


def examine(target: Device | Server) -> Iterator[Finding]:
    """Findings as they come, so that progress can be shown."""
    return examine_device(target) if isinstance(target, Device) else examine_server(target)


def examine_device(device: Device) -> Iterator[Finding]:
    """All checks of a device."""
    own = device.settings.get("own-model")
    own = own if isinstance(own, str) else ""
    model, parameters = _weighed("model", lambda: weigh_models(device.model, own))
    yield from _machine(device.flower, resources.memory_needed(parameters))
    yield model
    disk = resources.disk_needed(parameters)
    yield from _guarded("disk", lambda: resources.check_disk(device.state, disk))
    yield from _guarded("state folder", lambda: folders.check_state_folder(device.state))
    yield from _guarded("node settings", lambda: _check_settings(device))
    yield from _guarded("clients", lambda: check_clients(device.settings, device.run))
    if device.run.get("method") == "raffm":
        named, run = device.model or str(device.run.get("model", "")), device.run
        yield from _guarded(widths.CHECK, lambda: widths.check_width(named, device.settings, run))
    if device.data is None:
        yield skipped("data folder", "the node has no images of its own")
    else:
        data = device.data
        yield from _guarded("data folder", lambda: folders.check_data_folder(data))
    yield from _guarded("teacher", lambda: check_teachers(device.teachers))
    yield from _guarded("throttling", board.check_throttling)
    yield from _guarded("temperature", board.check_temperature)
    yield from examine_connection(device)


def examine_server(target: Server) -> Iterator[Finding]:
    """All checks of a server, on the server's own machine."""
    model, private = _weighed("private model", weigh_private_model)
    yield from _machine(target.flower, resources.memory_needed(private=private))
    yield model
    disk = resources.SERVER_DISK
    yield from _guarded("disk", lambda: resources.check_disk(target.state, disk))
    yield from _guarded("state folder", lambda: folders.check_state_folder(target.state))
    yield from _guarded("database", lambda: folders.check_database_folder(target.state))
    yield from _guarded("certificate", lambda: server.check_certificate(target.kit, target.names))
    yield from _guarded(
        "control port", lambda: server.check_control_port(target.names, target.control_port)
    )
    own = join_address("127.0.0.1", target.fleet_port)
    yield from examine_connection(Device(server=own, ca=target.kit / "ca.crt"))
    nodes = target.kit / "nodes.json"
    yield from _guarded("clients", lambda: check_fleet(nodes, target.run))
    yield from _guarded("nodes", lambda: server.check_registrations(target.kit))


def _machine(flower: str, memory: int) -> Iterator[Finding]:
    yield from _guarded("python", versions.check_python)
    yield from _guarded("packages", versions.check_packages)
    yield from _guarded("flower", lambda: versions.check_flower(flower))
    yield from _guarded("processor", check_atomics)
    yield from _guarded("torch", check_torch)
    yield from _guarded("memory", lambda: resources.check_memory(memory))


def examine_connection(device: Device, *, known: bool = True) -> Iterator[Finding]:
    """From the name to the key: each step only when the one before it succeeded.

    Parameters
    ----------
    known: whether to ask the server if it knows the key, and for its time.
    """
    trusted = True
    if device.ca is not None and not device.insecure:
        ca = device.ca
        for finding in _guarded("CA certificate", lambda: check_ca(ca)):
            trusted = trusted and finding.status != "error"
            yield finding
    if device.key is not None:
        key = device.key
        yield from _guarded("key", lambda: check_key(key))
    try:
        host, port = split_address(device.server)
    except SettingsError as problem:
        yield error("server", str(problem), "correct superlink in kit.toml")
        return
    steps: list[tuple[str, Check]] = [
        ("server", lambda: check_reachable(host, port)),
        ("TLS", lambda: check_encryption(host, port, device.ca, insecure=device.insecure)),
    ]
    if known:
        steps.append(("registration", lambda: _identity(device)))
    healthy = True
    for name, step in steps:
        if not healthy:
            yield skipped(name, "cannot be known before the errors above are mended")
            continue
        for finding in _guarded(name, step):
            healthy = healthy and finding.status != "error"
            yield finding
        healthy = healthy and trusted  # whether the server answers is known without trust


def _identity(device: Device) -> list[Finding]:
    return check_identity(device.server, device.key, device.ca, insecure=device.insecure)


def _check_settings(device: Device) -> Finding:
    if not device.settings:
        return skipped("node settings", "no settings are given")
    try:
        node = read_node_config(device.settings)
    except AugFlowerError as problem:
        return error("node settings", str(problem), "correct node.toml")
    who = f"clients {node.clients}" if node.clients else f"a {node.role} with its own images"
    return ok("node settings", who)


def _guarded(name: str, check: Check) -> Iterator[Finding]:
    try:
        found = check()
    except Exception as problem:
        yield _broken(name, problem)
        return
    yield from found if isinstance(found, list) else [found]


def _weighed(name: str, weigh: Callable[[], tuple[Finding, int]]) -> tuple[Finding, int]:
    try:
        return weigh()
    except Exception as problem:
        return _broken(name, problem), 0


def _broken(name: str, problem: Exception) -> Finding:
    """The doctor must get to its end: what a check did not foresee is a finding, too."""
    return error(
        name,
        f"the check itself failed: {type(problem).__name__}: {problem}",
        "report this with the text above",
    )
