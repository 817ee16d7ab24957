"""``augflower leaf``: an aggregator between a server and devices of its own.

Flower's parts twice over: a SuperLink and an executor for the devices behind it, and a SuperNode to
the server above. What the server asks that node goes through a socket to the leaf's own part in the
run (``server_app/leaf.py``), a run of the leaf's SuperLink, which begins when it is first asked.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Annotated, Any

import typer

from common import leaf as wire
from common.errors import AugFlowerError, FleetError
from deploy.connection import connected
from deploy.control import Control
from deploy.doctor.target import Device, read_kit
from deploy.processes import Process
from deploy.provision.store import make_private
from deploy.signals import terminable
from deploy.up import Node, start_server, stop_everything

BEGIN = 120.0
"""Seconds that the leaf's part in a run may take to begin."""

IDLE = 3600.0
"""Seconds without a question after which a run is ended that the server has forgotten to end."""

_POLL = 0.2
Notice = Callable[[str], None]


def leaf(
    kit: Annotated[Path, typer.Option(help="Folder of the leaf's kit.")],
    state: Annotated[
        Path, typer.Option(help="Folder for what its processes remember, and their logs.")
    ] = Path("state"),
) -> None:
    """Add up for a server what devices behind this machine answer, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        run_leaf(kit, state, lambda text: print(text, flush=True))


def run_leaf(kit: Path, state: Path, notice: Notice) -> None:
    """Start the processes of a leaf, and see to them until this one is to end.

    Parameters
    ----------
    notice: is told, in one line each, what has come up.

    Raises
    ------
    FleetError: the kit is none of a leaf, a port is taken, or a process ended by itself.
    """
    from deploy.bundle import app_folder

    kit, home = kit.absolute(), state.absolute()
    device = read_kit(kit)
    if not isinstance(device, Device) or device.leaf is None:
        raise FleetError(f"{kit} is no kit of a leaf; a leaf has a setting leaf in fleet.yaml")
    servers: list[Process] = []
    nodes: list[Node] = []
    with contextlib.ExitStack() as stack:
        # Not in the state folder: the path of a socket has a hundred letters at most.
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="augflower-"))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        socket = Path(place) / "leaf"
        stack.callback(stop_everything, nodes, servers)
        stack.enter_context(terminable())
        make_private(home)
        runs = {"AUGFLOWER_LEAF": str(socket), "AUGFLOWER_RUNS": str(home)}
        start_server(kit, device.leaf, home, servers, notice, runs)
        control = stack.enter_context(connected(kit, None, None, insecure=False, leaf=True))
        switch = Switch(socket, control, app_folder(scratch / "app"), notice)
        stack.callback(switch.close)
        nodes.append(Node(kit, device, home / "node", {"leaf-socket": str(socket)}))
        nodes[0].process.start()
        while True:
            for server in servers:
                server.check()
            nodes[0].look(notice)
            time.sleep(_POLL)


class _Part:
    """The leaf's part in one run of the server above."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # one question at a time
        self.run_id = 0
        self.process: Connection | None = None  # the one that asks the devices
        self.there = threading.Event()
        self.asked = time.monotonic()


class Switch:
    """Brings together, at a socket, who is asked and who asks the devices."""

    def __init__(self, socket: Path, control: Control, app: Path, notice: Notice) -> None:
        self._control = control
        self._app = app
        self._notice = notice
        self._parts: dict[str, _Part] = {}
        self._lock = threading.Lock()
        self._listener = Listener(str(socket), "AF_UNIX", backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take nobody in any more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            word, _, rest = connection.recv_bytes().decode().partition(" ")
            if word == wire.SERVES:
                self._welcome(int(rest), connection)
            elif word == wire.ASKS:
                token, _, config = rest.partition(" ")
                with connection:
                    connection.send_bytes(self._ask(token, config, connection.recv_bytes()))

    def _welcome(self, run_id: int, connection: Connection) -> None:
        with self._lock:
            part = next((p for p in self._parts.values() if p.run_id == run_id), None)
        if part is None:  # of an earlier life of this leaf
            connection.close()
            return
        part.process = connection
        part.there.set()

    def _ask(self, token: str, config: str, question: bytes) -> bytes:
        with self._lock:
            part = self._parts.setdefault(token, _Part())
        with part.lock:
            part.asked = time.monotonic()
            try:
                if part.process is not None:
                    with contextlib.suppress(EOFError, OSError):
                        return self._through(part, question)
                    # It was killed; what it was at is lost, and a new one can be asked.
                self._begin(part, json.loads(config))
                return self._through(part, question)
            except (EOFError, OSError):
                part.process = None
                reason = "its part in the run ended; see executor.log of the leaf"
            except AugFlowerError as error:
                reason = str(error)
        self._notice(f"leaf: {reason}")
        return wire.FAILED + reason.encode()

    def _through(self, part: _Part, question: bytes) -> bytes:
        assert part.process is not None
        part.process.send_bytes(question)
        return part.process.recv_bytes()

    def _begin(self, part: _Part, config: dict[str, Any]) -> None:
        """Begin the leaf's part in a run.

        Raises
        ------
        FleetError: it does not begin.
        """
        self._end_forgotten()
        part.there.clear()
        part.process = None
        with self._lock:  # so that who comes is known
            part.run_id = self._control.submit(self._app, config)
        end = time.monotonic() + BEGIN
        while not part.there.wait(_POLL):
            status = self._control.status(part.run_id)
            if status.finished or time.monotonic() > end:
                raise FleetError(
                    f"its part in the run did not begin ({status.status} {status.details}); see "
                    "executor.log of the leaf"
                )
        self._notice(f"leaf: takes part in {config.get('run-name', 'a run')}")

    def _end_forgotten(self) -> None:
        with self._lock:
            old = [t for t, p in self._parts.items() if time.monotonic() - p.asked > IDLE]
            parts = [self._parts.pop(token) for token in old]
        for part in parts:
            if part.process is not None:
                part.process.close()  # it ends by that
