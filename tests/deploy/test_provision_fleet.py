"""A provisioned fleet with Flower's own programs, started by the commands that the kits hold."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.doctor.encryption import check_encryption
from deploy.doctor.examine import examine_device, examine_server
from deploy.doctor.finding import Finding
from deploy.doctor.identity import check_identity
from deploy.doctor.server import check_registrations
from deploy.doctor.target import Device, Server, read_kit
from deploy.environment import flower_environment
from deploy.node import NodeOptions, supernode_arguments
from deploy.provision import provision as fleet
from deploy.provision.register import register
from deploy.provision.settings import parse_fleet

pytestmark = pytest.mark.deploy
PROGRAMS = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(what: Callable[[], object], seconds: float = 25) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)


@dataclass
class Machine:
    """All machines of a fleet, played by folders of this one."""

    root: Path
    running: list[subprocess.Popen]

    @property
    def fleet(self) -> Path:
        return self.root / "fleet"

    def kit(self, name: str) -> Path:
        return self.fleet / "server" if name == "server" else self.fleet / "nodes" / name

    def environment(self, name: str) -> dict[str, str]:
        home = self.root / "state" / name / "flower"
        return flower_environment(home, 1) | {"PYTHONPATH": str(ROOT)}

    def start(self, name: str, unit: str, ca: Path | None = None) -> subprocess.Popen:
        """Start what a unit file says, with the folders of an installed machine put here."""
        state = self.root / "state" / name
        state.mkdir(parents=True, exist_ok=True)
        text = (self.kit(name) / unit).read_text()
        line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
        line = line.removeprefix("ExecStart=")
        line = line.replace("/opt/augflower/bin/augflower node", f"{sys.executable} -m deploy.node")
        line = line.replace("/opt/augflower/bin", str(PROGRAMS))
        if ca is not None:
            line = line.replace(f"/etc/augflower/{name}/ca.crt", str(ca))
        line = line.replace(f"/etc/augflower/{name}", str(self.kit(name)))
        line = line.replace(f"/var/lib/augflower/{name}", str(state))
        log = (self.root / f"{name}.log").open("ab")
        process = subprocess.Popen(
            shlex.split(line),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=state,
            env=self.environment(name),
            start_new_session=True,
        )
        log.close()
        self.running.append(process)
        return process

    def statuses(self) -> dict[str, str]:
        """Node id -> status, as ``flwr supernode list`` says."""
        done = subprocess.run(
            [PROGRAMS / "flwr", "supernode", "list", "fleet", "--format", "json", "--verbose"],
            env=self.environment("server"),
            capture_output=True,
            text=True,
            check=True,
        )
        nodes = json.loads(done.stdout)["nodes"]
        return {node["node-id"]: node["status"] for node in nodes}

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path, [])
    yield made
    for process in made.running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def statuses(findings: Iterator[Finding]) -> dict[str, str]:
    listed = list(findings)
    found = {finding.check: finding.status for finding in listed}
    assert "" not in [f.remedy for f in listed if f.status in {"warning", "error"}]
    return found


def device_of(machine: Machine, name: str) -> Device:
    device = read_kit(machine.kit(name))
    assert isinstance(device, Device)
    return Device(**{**vars(device), "state": machine.root})


def server_of(machine: Machine) -> Server:
    server = read_kit(machine.kit("server"))
    assert isinstance(server, Server)
    return Server(**{**vars(server), "state": machine.root})


def supernode_without_doctor(machine: Machine, address: str, other: Path) -> str:
    """What Flower's own SuperNode says of a server whose authority is that of another fleet."""
    secret = machine.root / "secret"
    secret.write_bytes(bytes(48))
    key = machine.fleet / "nodes/lost/node.key"
    options = NodeOptions(address, root_certificates=other / "ca/ca.crt", key=key)
    arguments = supernode_arguments(options, *free_ports(1), str(secret))
    done = subprocess.run(
        [PROGRAMS / "flower-supernode", *arguments],
        env=flower_environment(machine.root / "flower"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stdout


def test_a_provisioned_fleet(machine: Machine):
    fleet_port, control_port, *own = free_ports(5)
    server = {"names": ["localhost"], "fleet-port": fleet_port, "control-port": control_port}
    names = ("good", "late", "lost")
    nodes = {
        name: {"clients": str(number), "port": port}
        for number, (name, port) in enumerate(zip(names, own, strict=True))
    }
    content = {"server": server, "nodes": {"good": nodes["good"], "lost": nodes["lost"]}}
    fleet.provision(parse_fleet(content), machine.fleet)
    kit = machine.kit("server")

    machine.start("server", "augflower-superlink.service")
    wait_for(lambda: "Uvicorn running" in machine.log("server"))
    executor = machine.start("server", "augflower-executor.service")
    home = machine.root / "state/server/flower"
    home.mkdir(exist_ok=True)
    config = (kit / "config.toml").read_text()
    (home / "config.toml").write_text(config.replace("/etc/augflower/server", str(kit)))

    # Before the registration: the doctor says so on both sides.
    assert check_registrations(kit).cause == "good, lost: not registered yet"
    address, ca = f"localhost:{fleet_port}", kit / "ca.crt"
    findings = check_identity(address, machine.kit("good") / "node.key", ca)
    assert [finding.status for finding in findings] == ["ok", "error"]

    first = register(machine.fleet)
    assert first.registered.keys() == {"good", "lost"}
    assert register(kit).unchanged == first.registered  # from the kit, and again
    good, lost = (str(first.registered[name]) for name in ("good", "lost"))

    # A registered node with the right CA comes online.
    running = machine.start("good", "augflower-good.service")
    wait_for(lambda: f"Activated node_id={good}" in machine.log("server"))
    examined = statuses(examine_device(device_of(machine, "good")))
    assert {examined[name] for name in ("server", "TLS", "key", "clock", "registration")} == {"ok"}
    assert machine.statuses()[good] == "online"  # the doctor did not disturb it
    examined = statuses(examine_server(server_of(machine)))
    wanted = ("certificate", "control port", "TLS", "clock", "nodes", "database")
    assert {examined[name] for name in wanted} == {"ok"}

    # A registered node with another fleet's CA does not.
    other = machine.root / "other"
    fleet.provision(parse_fleet({"server": {"names": ["localhost"]}}), other)
    stranger = machine.start("lost", "augflower-lost.service", ca=other / "ca/ca.crt")
    wait_for(lambda: stranger.poll() is not None)
    assert stranger.returncode != 0
    assert "error: TLS: the server's certificate is from another authority" in machine.log("lost")
    assert "CERTIFICATE_VERIFY_FAILED" in supernode_without_doctor(machine, address, other)
    assert machine.statuses()[lost] == "registered"
    assert check_encryption("localhost", fleet_port, other / "ca/ca.crt").status == "error"

    # A node with a key that the server does not know stops at once.
    fleet.provision(parse_fleet({**content, "nodes": nodes}), machine.fleet)
    unknown = machine.start("late", "augflower-late.service")
    wait_for(lambda: unknown.poll() is not None)
    assert unknown.returncode != 0
    assert "Failed to activate SuperNode" in machine.log("late")
    assert "registration: the server does not know this key" in machine.log("late")
    assert len(machine.statuses()) == 2

    # After its registration it is let in; a revoked one is put out, also while it runs.
    added = register(machine.fleet)
    late = str(added.registered["late"])
    machine.start("late", "augflower-late.service")
    wait_for(lambda: f"Activated node_id={late}" in machine.log("server"))
    fleet.revoke(machine.fleet, "good")
    assert register(machine.fleet).unregistered == [("good", int(good))]
    assert machine.statuses()[good] == "unregistered"
    wait_for(lambda: running.poll() is not None)  # its next request is refused
    assert register(machine.fleet).unchanged.keys() == {"late", "lost"}

    # All the while the executor was connected, over TLS and with its secret.
    assert executor.poll() is None
    assert "Connection attempt failed" not in machine.log("server")
    assert "Traceback" not in machine.log("server")
