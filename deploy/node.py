"""A device: Flower's SuperNode and a warm executor, as one command and one tree of processes.

The process that is started imports Flower, forks the SuperNode, imports the libraries that tasks
need, and then forks each task (see ``warm.py``). ``flower-supernode`` runs the same apps.

A SuperNode that ends although the SuperLink had taken it in is replaced by a new one; one that was
never taken in ends the device's process with it, for somebody has to look.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType

from common.errors import AugFlowerError, FleetError, SettingsError
from deploy.adaptation import adapt
from deploy.diagnosis import SETTINGS, diagnose
from deploy.doctor.address import split_address
from deploy.doctor.finding import Finding
from deploy.doctor.target import Device
from deploy.environment import flower_environment
from deploy.fleet_calls import Advice, fleet_calls
from deploy.provision.loopback import require_loopback
from deploy.recovery import leave, recovery
from deploy.sleeps import differences, quicken_supernode
from deploy.warm import LIBRARIES, WarmExecutor, describe, detach_signals, end_process, preload

_FLOWER = (
    "flwr.supernode.cli.flower_supernode",
    "flwr.supernode.main",
    "flwr.supernode.runtime.run_clientapp",
)
_GRACE = 6.0
_FIRST_REST, _LONGEST_REST = 1.0, 60.0
"""Seconds before a new SuperNode takes the place of one that ended, doubled each time."""
_LASTING = 600.0
"""Seconds after which a SuperNode's end is taken for a new fault, not for the last one again."""
_ENDURED = frozenset({"server", SETTINGS})
"""What may be well later: a server may start after its devices, and an app has its own settings."""
_TAKEN = 10.0
"""Seconds for which a port may still be another's."""
_log = logging.getLogger("augflower.node")


@dataclass(frozen=True)
class NodeOptions:
    """How a device runs.

    Attributes
    ----------
    superlink: address of the server's fleet port, ``host:port``.
    insecure: plaintext; ``root_certificates`` otherwise.
    root_certificates: PEM file of the authority that signed the server's certificate.
    key: this device's private key (EC, OpenSSH format); with it the device keeps its identity.
    node_config: ``key=value ...`` or the path of a TOML file.
    port: of the runtime API, on loopback; 0 takes a free one.
    home: Flower's folder for the apps it receives (FLWR_HOME); None leaves it as it is.
    threads: threads for arithmetic; None leaves it to torch.
    libraries: what is imported once, before any task.
    quick: shorten Flower's fixed waits and answer at once for a task that was killed.
    """

    superlink: str = "127.0.0.1:9092"
    insecure: bool = False
    root_certificates: Path | None = None
    key: Path | None = None
    node_config: str = ""
    port: int = 0
    home: Path | None = None
    threads: int | None = None
    libraries: tuple[str, ...] = LIBRARIES
    quick: bool = True

    def __post_init__(self) -> None:
        split_address(self.superlink)
        if self.insecure == (self.root_certificates is not None):
            raise SettingsError("give either --root-certificates FILE or --insecure")
        if self.insecure and self.key is not None:
            raise SettingsError("--auth needs --root-certificates: keys work over TLS only")
        if self.insecure:
            require_loopback(self.superlink.rpartition(":")[0])
        for name, path in (("--root-certificates", self.root_certificates), ("--auth", self.key)):
            if path is not None and not path.is_file():
                raise SettingsError(f"{name}: there is no file {path}")


def _findings(options: NodeOptions, *, known: bool) -> list[Finding]:
    device = Device(
        server=options.superlink,
        ca=options.root_certificates,
        key=options.key,
        insecure=options.insecure,
    )
    return diagnose(device, options.node_config, known=known)


def _said(finding: Finding) -> str:
    return f"{finding.check}: {finding.cause}; {finding.remedy}"


def run_node(options: NodeOptions) -> None:
    """Be a device until stopped by a signal.

    Raises
    ------
    FleetError: the device cannot reach its server or take part, the SuperNode ended, or a library
        cannot be kept warm.
    """
    if options.insecure:
        _log.warning(require_loopback(options.superlink.rpartition(":")[0]))
    # Before anything imports flwr or torch, which read it once.
    os.environ.update(flower_environment(options.home, options.threads))
    signal.signal(signal.SIGTERM, _leave)
    if options.port:
        _require_free(options.port)
    device = _Device(options)
    preload(_FLOWER)
    for finding in _findings(options, known=False):
        if finding.check not in _ENDURED:
            raise FleetError(_said(finding))
        _log.warning(_said(finding))
    rest = _FIRST_REST
    while True:
        began = time.monotonic()
        ended = device.run()
        if not device.was_online:
            found = [f for f in _findings(options, known=True) if f.check != SETTINGS]
            reason = _said(found[0]) if found else "the reason is in its log above"
            raise FleetError(f"the SuperNode ended with {ended}; {reason}")
        lasted = time.monotonic() - began
        rest = _FIRST_REST if lasted > _LASTING else rest
        _log.error("the SuperNode ended with %s after %.0f s; a new one follows", ended, lasted)
        # A whole fleet that was lost at once does not come back at once.
        time.sleep(rest * random.uniform(0.5, 1.0))
        rest = min(2 * rest, _LONGEST_REST)


class _Device:
    """A SuperNode and the executor of its tasks; another SuperNode after it, with the same port."""

    def __init__(self, options: NodeOptions) -> None:
        self._options = options
        self._port = options.port or free_port()
        self._context = multiprocessing.get_context("fork")
        self._online = self._context.RawValue("b", 0)

    @property
    def was_online(self) -> bool:
        """Whether the SuperLink has taken in the last SuperNode."""
        return bool(self._online.value)

    def run(self) -> str:
        """Start a SuperNode, and work until it ends; how it ended, in words."""
        secret = secrets.token_bytes(48)
        quick = self._options.quick and not _unsuited()
        bell, ring = self._context.Pipe(duplex=False)
        supernode = self._start(secret, ring if quick else None)
        executor = WarmExecutor(f"127.0.0.1:{self._port}", secret, bell if quick else None)
        try:
            preload(self._options.libraries)
            executor.run(supernode)
        except BaseException:
            # A second Ctrl-C must not leave half of the tree behind.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            raise
        finally:
            executor.stop()
            ended = supernode.exitcode
            end_process(supernode, _GRACE)
            bell.close()
            ring.close()
        return describe(ended)

    def _start(self, secret: bytes, ring: Connection | None) -> ForkProcess:
        self._online.value = 0
        with _readable_once(secret) as secret_file:
            arguments = supernode_arguments(self._options, self._port, secret_file)
            # As a daemon it also ends with this process should that leave before its work.
            supernode = self._context.Process(
                target=_supernode,
                args=(arguments, ring, partial(setattr, self._online, "value", 1), os.getpid()),
                name="supernode",
                daemon=True,
            )
            supernode.start()
        return supernode


def supernode_arguments(options: NodeOptions, port: int, secret_file: str) -> list[str]:
    """The command line of Flower's SuperNode for these options."""
    arguments = ["--superlink", options.superlink, "--isolation", "process", "--port", str(port)]
    arguments += ["--superexec-auth-secret-file", secret_file]
    if options.root_certificates is None:
        arguments += ["--insecure"]
    else:
        arguments += ["--root-certificates", str(options.root_certificates)]
    if options.key is not None:
        arguments += ["--auth-supernode-private-key", str(options.key)]
    if options.node_config:
        arguments += ["--node-config", options.node_config]
    return arguments


def free_port() -> int:
    """A port of the loopback interface that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _require_free(port: int) -> None:
    """Wait for a port that an earlier process of this device may still have.

    Raises
    ------
    FleetError: another process keeps it.
    """
    end = time.monotonic() + _TAKEN
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError as error:
            if time.monotonic() > end:
                raise FleetError(
                    f"port {port} cannot be used ({error.strerror}): end what has it (ss -ltnp "
                    "shows it), or give another --port (port in fleet.yaml)"
                ) from None
            time.sleep(0.5)
        else:
            return


@contextlib.contextmanager
def _readable_once(secret: bytes) -> Iterator[str]:
    """A path from which one forked process can read ``secret``, and no other process at all."""
    reading, writing = os.pipe()
    try:
        os.write(writing, secret)
        os.close(writing)
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _supernode(
    arguments: list[str], ring: Connection | None, online: Callable[[], None], parent: int
) -> None:
    detach_signals()
    from flwr.supercore.app_utils import start_parent_process_monitor
    from flwr.supernode.cli.flower_supernode import flower_supernode

    start_parent_process_monitor(parent)
    advice = Advice()
    adapt([recovery(online), fleet_calls(advice)])
    if ring is not None:
        quicken_supernode(ring, advice)
    sys.argv = ["flower-supernode", *arguments]
    code: object = 1
    try:
        flower_supernode()
    except SystemExit as end:
        code = end.code
    except BaseException:
        _log.exception("the SuperNode ended")
    finally:
        # Flower's HTTP server has a thread of its own, which would keep the process as it is.
        leave(code if isinstance(code, int) else 0 if code is None else 1)


def _unsuited() -> bool:
    if found := differences():
        _log.warning(
            "Flower's %s differ from those of flwr 1.39.0: its waits are left as they are, and "
            "rounds take longer",
            ", ".join(found),
        )
    return bool(found)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m deploy.node``: the options of ``augflower node``."""
    parser = argparse.ArgumentParser(prog="augflower node", description="Be a device of a fleet.")
    parser.add_argument("--superlink", default=NodeOptions.superlink, metavar="HOST:PORT")
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--root-certificates", type=Path, metavar="FILE")
    parser.add_argument("--auth", dest="key", type=Path, metavar="KEY")
    parser.add_argument("--node-config", default="", metavar="'KEY=VALUE ...'|FILE.toml")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--flwr-home", dest="home", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--preload", dest="libraries", type=lambda text: tuple(text.split(",")), default=LIBRARIES
    )
    parser.add_argument("--no-quick", dest="quick", action="store_false")
    try:
        run_node(NodeOptions(**vars(parser.parse_args(arguments))))
    except KeyboardInterrupt:
        sys.exit(130)
    except AugFlowerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
