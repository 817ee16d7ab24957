"""A whole fleet on this machine: SuperLink, SuperNodes and their logs, started and stopped as one.

Everything listens on loopback, without TLS. For more machines see ``augflower provision``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from common.errors import FleetError
from common.files import write_atomic
from deploy.control import Control, RunStatus, Scalar, toml_lines
from deploy.environment import flower_environment
from deploy.node import free_port
from deploy.processes import Process, stop_all
from deploy.signals import terminable, undisturbed
from deploy.superexec import LOOKS
from deploy.superlink import WITHOUT

START_TIMEOUT = 120.0
_GRACE = 8.0
_ONLINE = re.compile(r"SuperNode ID: (\d+)")


@dataclass(frozen=True)
class NodeSpec:
    """A device of a fleet: its name and what Flower calls its node config."""

    name: str
    config: Mapping[str, Scalar] = field(default_factory=dict)


class Fleet:
    """A context manager: inside it the fleet is online; after it nothing of it is left."""

    def __init__(
        self,
        home: Path,
        nodes: Sequence[NodeSpec],
        *,
        warm: bool = True,
        database: bool = False,
        without: str = "",
        server_environment: Mapping[str, str] | None = None,
        threads: int = 1,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Describe a fleet.

        Parameters
        ----------
        home: folder for everything that the fleet writes; logs are in ``home/logs``.
        nodes: the devices; names must differ.
        warm: devices of ``augflower node``; otherwise Flower's own ``flower-supernode``.
        database: keep the SuperLink's state in a file, so that it survives the SuperLink.
        without: adaptations of the SuperLink that are left out, see ``superlink.py``.
        server_environment: added to the environment of the ServerApp, and of nothing else.
        threads: threads for arithmetic of each process of a device.
        notice: told, in one line each, what has come online.

        Raises
        ------
        FleetError: two devices have the same name.
        """
        names = [node.name for node in nodes]
        if len(set(names)) != len(names):
            raise FleetError(f"the names of devices must differ, and these do not: {names}")
        self.home = home.absolute()
        self._warm = warm
        self._notice = notice
        self._fleet_port, self._http_port = free_port(), free_port()
        environment = importable(flower_environment(self.home / "superlink"))
        self._superlink = self._process(
            "superlink", self._superlink_command(database), environment | {WITHOUT: without}
        )
        self._superexec = self._process(
            "superexec",
            self._superexec_command(),
            environment | LOOKS | dict(server_environment or {}),
        )
        self._nodes = {node.name: self._node(node, threads) for node in nodes}
        self._control = Control(self._http_address, self.home / "cli", environment)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            stack.enter_context(terminable())
            self._superlink.start()
            self._wait_for("the SuperLink", self._superlink_ready)
            self._superexec.start()
            for node in self._nodes.values():
                node.start()
            self._wait_for_nodes(list(self._nodes))
            stack.enter_context(self._control)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def node_ids(self) -> dict[str, int]:
        """Name -> Flower's id of each device that is online."""
        found = {name: _ONLINE.findall(node.output()) for name, node in self._nodes.items()}
        return {
            name: int(ids[-1]) for name, ids in found.items() if ids and self._nodes[name].running
        }

    @property
    def address(self) -> str:
        """``host:port`` of the SuperLink's control API, where runs are submitted."""
        return self._http_address

    @property
    def fleet_address(self) -> str:
        """``host:port`` of the SuperLink's fleet API, which devices speak."""
        return f"127.0.0.1:{self._fleet_port}"

    def log(self, name: str) -> Path:
        """The log of a device, of ``superlink``, or of ``superexec``, which has the ServerApp's."""
        return self.home / "logs" / f"{name}.log"

    def check(self) -> None:
        """Look whether everything that was started and not killed is alive.

        Raises
        ------
        FleetError: a process ended by itself, with the last lines of its log.
        """
        for process in (self._superlink, self._superexec, *self._nodes.values()):
            process.check()

    def submit(self, app: Path, run_config: Mapping[str, Scalar] | None = None) -> int:
        """Start a run of the app in a folder; gives the run's id.

        Raises
        ------
        FleetError: Flower refused the app or the settings.
        """
        self.check()
        return self._control.submit(app, run_config or {})

    def status(self, run_id: int) -> RunStatus:
        """Where a run stands."""
        self.check()
        return self._control.status(run_id)

    def wait(
        self,
        run_id: int,
        timeout: float | None = None,
        on_poll: Callable[[RunStatus], None] = lambda _: None,
        interval: float = 0.2,
    ) -> RunStatus:
        """Wait for a run to finish.

        Parameters
        ----------
        timeout: seconds; None waits for ever.
        on_poll: called with the status every ``interval`` seconds.

        Raises
        ------
        FleetError: a process of the fleet ended, or the time is over.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (status := self._known_status(run_id)).finished:
            on_poll(status)
            if deadline is not None and time.monotonic() > deadline:
                raise FleetError(
                    f"run {run_id} is still {status.status} after {timeout:.0f} s; "
                    f"its log is {self.log('superexec')}"
                )
            time.sleep(interval)
        on_poll(status)
        return status

    def _known_status(self, run_id: int) -> RunStatus:
        """As ``status``, asked again while the SuperLink fails, for as long as one may start."""
        end = time.monotonic() + START_TIMEOUT
        while True:
            self.check()
            try:
                return self._control.status(run_id)
            except FleetError:
                if time.monotonic() > end:
                    raise
            time.sleep(1)

    def stop_run(self, run_id: int) -> None:
        """Stop a run; its nodes finish the message that they are working on."""
        self._control.stop(run_id)

    def kill(self, name: str) -> None:
        """End a device, ``superlink`` or ``superexec`` as when its power goes.

        The executor takes the ServerApp with it; ``restart`` brings any of them back.
        """
        self._named(name).kill()

    def restart(self, name: str) -> None:
        """Start it again, after stopping it where it runs, and wait until it is online.

        Without TLS Flower gives a device a new node id; its name, settings and folder stay.
        """
        process = self._named(name)
        stop_all([process], _GRACE)
        process.start()
        if name == "superlink":
            self._wait_for("the SuperLink", self._superlink_ready)
        elif name != "superexec":
            self._wait_for_nodes([name])

    def pids(self, name: str) -> list[int]:
        """Process ids of a device, ``superlink`` or ``superexec``, and of all that it started."""
        return self._named(name).pids()

    def _named(self, name: str) -> Process:
        return {"superlink": self._superlink, "superexec": self._superexec, **self._nodes}[name]

    def _process(self, name: str, command: list[str], environment: dict[str, str]) -> Process:
        return Process(name, command, environment, self.log(name))

    @property
    def _http_address(self) -> str:
        return f"127.0.0.1:{self._http_port}"

    def _superlink_command(self, database: bool) -> list[str]:
        command = [sys.executable, "-m", "deploy.superlink"]
        command += ["--insecure", "--isolation", "process"]
        command += ["--host", "127.0.0.1", "--port", str(self._http_port)]
        command += ["--fleet-api-address", self.fleet_address]
        if database:
            command += ["--database", str(self.home / "superlink" / "state.db")]
        return command

    def _superexec_command(self) -> list[str]:
        command = [sys.executable, "-m", "deploy.superexec", "--insecure"]
        return [*command, "--runtime-api-address", self._http_address]

    def _node(self, node: NodeSpec, threads: int) -> Process:
        folder = self.home / "nodes" / node.name
        config = folder / "node.toml"
        write_atomic(config, toml_lines(node.config))
        command = ["--insecure", "--superlink", self.fleet_address]
        command += ["--node-config", str(config), "--port", str(free_port())]
        program = [sys.executable, "-m", "deploy.node"] if self._warm else ["flower-supernode"]
        environment = importable(flower_environment(folder / "flower", threads))
        return self._process(node.name, program + command, environment)

    def _superlink_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._http_address}/health", timeout=5):
                return True
        except urllib.error.URLError:
            return False

    def _wait_for_nodes(self, names: list[str]) -> None:
        online: list[str] = []

        def all_online() -> bool:
            for name in self.node_ids:
                if name in names and name not in online:
                    online.append(name)
                    self._notice(f"{name} is online ({len(online)} of {len(names)})")
            return len(online) == len(names)

        self._wait_for("the devices", all_online)

    def _wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise FleetError(
                    f"{what} did not come online within {START_TIMEOUT:.0f} s; see the logs in "
                    f"{self.home / 'logs'}"
                )
            time.sleep(0.1)

    def _stop(self) -> None:
        with undisturbed():
            # The devices take their leave of the SuperLink, so it goes last.
            stop_all(list(self._nodes.values()), _GRACE)
            stop_all([self._superexec, self._superlink], _GRACE)


def importable(environment: dict[str, str]) -> dict[str, str]:
    """Let other processes import these packages from a checkout that is not installed."""
    root = Path(__file__).resolve().parent.parent
    if root.name == "site-packages":
        return environment
    path = [str(root), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(path)}
