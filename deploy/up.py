"""``augflower up``: a server, devices or a whole fleet of kits as plain processes of this machine.

For trying, and for machines without systemd and Docker. What the processes write is in one folder;
nothing is installed. Ctrl-C ends all of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from common.errors import FleetError
from common.files import write_atomic
from deploy.doctor.target import Device, Server, read_kit
from deploy.environment import flower_environment
from deploy.fleet import importable
from deploy.node import free_port
from deploy.processes import Process, stop_all
from deploy.provision.register import register
from deploy.provision.registry import FILE
from deploy.provision.server_kit import LOOPBACK, NAME, executor_command, superlink_command
from deploy.provision.settings import ServerSettings
from deploy.provision.store import make_private
from deploy.signals import terminable, undisturbed
from deploy.superexec import LOOKS

START = 120.0
"""Seconds that a SuperLink may take to start."""
SLOW = 10.0
"""Seconds after which a device that is not online is told of."""
_GRACE = 8.0
_POLL = 0.2
_ONLINE = re.compile(r"SuperNode ID: \d+|: online$", re.MULTILINE)
"""Said by a device, and by a leaf of its SuperNode."""

Notice = Callable[[str], None]


def up(
    kits: Annotated[
        list[Path],
        typer.Option(
            "--kit", help="Folder of the server's or a node's kit, or of a fleet; may be repeated."
        ),
    ],
    state: Annotated[
        Path, typer.Option(help="Folder for what the processes remember, and their logs.")
    ] = Path("state"),
) -> None:
    """Run kits as plain processes, without Docker or systemd, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        run_kits(kits, state, lambda text: print(text, flush=True))


def run_kits(kits: Sequence[Path], state: Path, notice: Notice) -> None:
    """Start the processes of kits, and see to them until this one is to end.

    Parameters
    ----------
    kits: folders of kits, or of fleets, which hold those of a server and of nodes.
    notice: is told, in one line each, what has come up.

    Raises
    ------
    FleetError: a kit cannot be read, a port is taken, or a process ended by itself.
    """
    targets = [(kit.absolute(), read_kit(kit)) for given in kits for kit in _kits_in(given)]
    servers: list[Process] = []
    nodes: list[Node] = []
    with contextlib.ExitStack() as stack:
        stack.callback(stop_everything, nodes, servers)
        stack.enter_context(terminable())
        notice(f"what they remember, and their logs, are in {state}; Ctrl-C ends all")
        for kit, target in targets:
            if isinstance(target, Server):
                start_server(kit, target, state.absolute() / NAME, servers, notice)
        for kit, target in targets:
            if isinstance(target, Device):
                home = state.absolute() / target.name
                nodes.append(Leaf(kit, target, home) if target.leaf else Node(kit, target, home))
                nodes[-1].process.start()
        while True:
            for server in servers:
                server.check()
            for node in nodes:
                node.look(notice)
            time.sleep(_POLL)


class Node:
    """A device: its process, and what has been told of it."""

    def __init__(
        self, kit: Path, device: Device, home: Path, more: dict[str, str] | None = None
    ) -> None:
        """Prepare.

        Parameters
        ----------
        more: settings beside those of the kit.
        """
        make_private(home)
        settings = home / "node.toml"
        own = device.settings | {"state-folder": str(home)} | (more or {})
        write_atomic(settings, tomli_w.dumps(own).encode())
        options = {
            "--superlink": device.server,
            "--root-certificates": str(device.ca),
            "--auth": str(kit / "node.key"),
            "--node-config": str(settings),
        }
        command = ["augflower", "node", *(p for option in options.items() for p in option)]
        self.process = self._process(device, home, command)
        self._late = time.monotonic() + SLOW
        self._online = False

    @staticmethod
    def _process(device: Device, home: Path, command: list[str]) -> Process:
        threads = device.settings.get("threads")
        environment = importable(flower_environment(home / "flower", threads))
        return Process(device.name, _command(command), environment, home / f"{device.name}.log")

    def look(self, notice: Notice) -> None:
        """Tell whether it is online, once.

        Raises
        ------
        FleetError: it ended by itself.
        """
        self.process.check()
        if self._online or not (said := self.process.output().strip()):
            return
        if _ONLINE.search(said):
            self._online = True
            notice(f"{self.process.name}: online")
        elif time.monotonic() > self._late:
            self._late = float("inf")
            notice(f"{self.process.name}: not online yet; {self.process.log} ends with:")
            notice(said.splitlines()[-1])


class Leaf(Node):
    """A leaf: one process, with its own below it."""

    def __init__(self, kit: Path, device: Device, home: Path) -> None:
        make_private(home)
        command = ["augflower", "leaf", "--kit", str(kit), "--state", str(home)]
        self.process = self._process(device, home, command)
        self._late = time.monotonic() + START
        self._online = False


def start_server(
    kit: Path,
    server: Server,
    home: Path,
    started: list[Process],
    notice: Notice,
    places: Mapping[str, str] | None = None,
) -> None:
    """Start SuperLink and executor, and register the nodes in between.

    Parameters
    ----------
    places: environment of a leaf's runs; without it, of a server's.
    """
    runs_at = Path(os.environ.get("AUGFLOWER_RUNS") or "runs").absolute()
    ports = ServerSettings(
        names=server.names, fleet_port=server.fleet_port, control_port=server.control_port
    )
    _require_free("0.0.0.0", ports.fleet_port, "fleet-port")
    _require_free(LOOPBACK, ports.control_port, "control-port")
    make_private(home)
    environment = importable(flower_environment(home / "flower"))
    link = superlink_command(ports, config=str(kit), state=str(home))
    superlink = Process("superlink", _command(link), environment, home / "superlink.log")
    started.append(superlink)
    superlink.start()
    for port in (ports.fleet_port, ports.control_port):
        _wait_for(superlink, port)
    said = register(kit)
    if said.registered:
        notice(f"server: registered {', '.join(said.registered)}")
    for name in said.refused:
        notice(f"server: the key of {name} is never taken again; augflower provision renew {name}")
    of_runs = LOOKS | dict(
        places or {"AUGFLOWER_RUNS": str(runs_at), "AUGFLOWER_NODES": str(kit / "nodes.json")}
    )
    health = f"{LOOPBACK}:{free_port()}"
    runs = _command(executor_command(ports, config=str(kit), health=health))
    started.append(Process("executor", runs, environment | of_runs, home / "executor.log"))
    started[-1].start()
    notice(f"server: up; devices reach it at port {ports.fleet_port}")
    if places is None:
        notice(f"server: runs go to {runs_at}; submit one: augflower run --kit {kit}")


def _kits_in(folder: Path) -> list[Path]:
    """The folder itself or, of a fleet, the kits in it."""
    if not (folder / FILE).is_file():
        return [folder]
    return [folder / NAME, *sorted(path.parent for path in folder.glob("nodes/*/kit.toml"))]


def _command(command: list[str]) -> list[str]:
    """The same command, of this installation."""
    return [sys.executable, "-m", "deploy.cli", *command[1:]]


def _require_free(host: str, port: int, setting: str) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise FleetError(
            f"port {port} cannot be used ({error.strerror}): end what has it (ss -ltnp shows it), "
            f"or set {setting} in fleet.yaml and provision again"
        ) from None


def _wait_for(process: Process, port: int) -> None:
    end = time.monotonic() + START
    while True:
        process.check()
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, port), 1).close()
            return
        if time.monotonic() > end:
            raise FleetError(
                f"port {port} of {process.name} did not open in {START:.0f} s; see {process.log}"
            )
        time.sleep(_POLL)


def stop_everything(nodes: Sequence[Node], servers: Sequence[Process]) -> None:
    """Stop them all, and wait until they are gone."""
    with undisturbed():
        # The devices take their leave of the SuperLink, so it goes last.
        stop_all([node.process for node in nodes], _GRACE)
        stop_all(servers, _GRACE)
