"""A warm executor: runs each Flower task in a fresh process, forked from one that is ready.

Flower's own executor starts a new Python for each message, which imports flwr and torch anew:
seconds on a PC, far more on a Raspberry Pi. Here one process imports the libraries once and forks;
a task still has a process of its own, so that nothing it does, a crash included, reaches the next.
Only libraries are ready. The app itself is imported in the fork, from the bundle of its run.

Forking is safe because this process never starts a thread: it has no gRPC channel, and torch and
BLAS begin their thread pools with the first parallel operation, which happens in the forks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import TYPE_CHECKING

from common.backoff import shorten_backoff
from common.errors import FleetError
from common.trouble import is_trouble

if TYPE_CHECKING:
    from flwr.supercore.runtime import RuntimeHttpClient

LIBRARIES = ("numpy", "pydantic", "torch")
OWN = frozenset({"client_app", "common", "deploy", "server_app"})
"""Top-level packages that a fork forgets, so that it imports those of the run's bundle."""

_SAID_GOODBYE = 77
"""Exit code of a task that told the SuperNode its end, be it well or by an exception."""
_GRACE = 3.0
_POLL = 0.2
_LONG_POLL = 2.0
_LOOK = 1.0
"""Seconds between two looks for a second task while one is at work."""
_GOODBYE = 5.0
"""Seconds that a task has to end once there is a second one."""
_log = logging.getLogger("augflower.node")


def preload(names: Sequence[str]) -> None:
    """Import what the tasks will need, as far as it is installed, and keep it shared.

    Raises
    ------
    FleetError: a library started threads, so that forking is not safe.
    """
    for name in names:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    if threading.active_count() > 1:
        raise FleetError(
            "cannot keep a warm process: one of "
            f"{', '.join(names)} starts threads when it is imported; leave it out of --preload"
        )
    # Collected objects would be written to by each fork, which would copy their pages.
    gc.collect()
    gc.freeze()


class WarmExecutor:
    """Takes tasks from a SuperNode's Runtime API and runs each in a fork, one at a time.

    A SuperNode handles one message at a time. When it has a second task, the first one is over: it
    is saying goodbye, or its run ended while the message was on its way, of which Flower 1.39 does
    not tell the task. That one would wait for the rest of its message for ever, and is ended.
    """

    def __init__(self, address: str, secret: bytes, bell: Connection | None) -> None:
        """Prepare.

        Parameters
        ----------
        address: of the Runtime API, on loopback.
        secret: shared with the SuperNode; keeps other users of the machine out.
        bell: rings when a message has come, from a SuperNode that was adapted (see ``sleeps.py``).
            Such a one can also be told of a task that ended without a word; another would then
            wait for ever, so that None leaves both the polling and the telling to Flower's ways.
        """
        self._address = address
        self._secret = secret
        self._bell = bell
        self._context = multiprocessing.get_context("fork")
        self._task: ForkProcess | None = None

    def run(self, supernode: ForkProcess) -> None:
        """Work until the SuperNode ends."""
        client = _connect(self._address, self._secret)
        try:
            while supernode.exitcode is None:
                token = _acquire(client)
                if token is None:
                    self._rest(supernode)
                while token is not None:
                    token = self._run_task(token, client, supernode)
        finally:
            client.close()

    def stop(self) -> None:
        """End the task at hand, politely and then not."""
        if self._task is not None:
            end_process(self._task, _GRACE)

    def _rest(self, supernode: ForkProcess) -> None:
        if self._bell is None:
            wait([supernode.sentinel], timeout=_POLL)
        elif self._bell in wait([supernode.sentinel, self._bell], timeout=_LONG_POLL):
            self._bell.recv_bytes()

    def _run_task(
        self, token: str, client: RuntimeHttpClient, supernode: ForkProcess
    ) -> str | None:
        """Run a task to its end; the token of the next one where that has come meanwhile."""
        self._task = self._context.Process(
            target=_work, args=(self._address, token, self._bell is not None), name="clientapp"
        )
        self._task.start()
        ends, following = [self._task.sentinel, supernode.sentinel], None
        while not wait(ends, timeout=_LOOK) and following is None:
            following = _acquire(client)
        # The next task must not start before this one has handed over its state.
        if not wait(ends, timeout=_GOODBYE):
            _log.warning("a ClientApp process is ended, for its SuperNode has gone on without it")
            end_process(self._task, _GRACE)
        if supernode.exitcode is not None:
            return None
        self._task.join()
        if self._task.exitcode != _SAID_GOODBYE:
            _log.warning("a ClientApp process died: %s", describe(self._task.exitcode))
            if self._bell is not None:
                _report_death(self._address, token, self._task.exitcode)
        self._task = None
        return following


def end_process(process: ForkProcess, grace: float) -> None:
    """SIGTERM, then SIGKILL after ``grace`` seconds."""
    process.terminate()
    process.join(grace)
    if process.exitcode is None:
        process.kill()
        process.join()


def describe(exitcode: int | None) -> str:
    """An exit code in words: ``exit code 1`` or ``signal SIGKILL``."""
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def detach_signals() -> None:
    """In a fork: a second signal must not cut short the goodbye that the first one began.

    Flower puts back, on the first signal, the handlers that it found, and Ctrl-C reaches the fork
    both from the terminal and from its parent.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def reseed() -> None:
    """Give a fork random states of its own; it would otherwise repeat those of its siblings."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def forget_own_modules() -> None:
    """Drop AugFlower's own packages, so that the next import takes those first on the path."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]


def show_what_devices_say() -> None:
    """Let the app's own lines, such as how good its teacher is, into the log of the node."""
    said = logging.getLogger("client_app")
    said.setLevel(logging.INFO)
    said.addHandler(logging.StreamHandler())


def _work(address: str, token: str, quick: bool) -> None:
    detach_signals()
    reseed()
    show_what_devices_say()
    if quick:
        shorten_backoff()
    forget_own_modules()
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    sys.argv = ["flwr-clientapp"]
    with contextlib.suppress(SystemExit):
        run_clientapp(
            runtime_api_address=address,
            token=token,
            insecure=True,
            parent_pid=os.getppid(),
            runtime_dependency_install=False,
        )
    sys.exit(_SAID_GOODBYE)


def _connect(address: str, secret: bytes) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import (
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
    from flwr.supercore.runtime import RuntimeHttpClient

    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=secret,
                protected_methods={"/flwr.proto.Runtime/AcquireTask"},
            ),
        ],
    )


def _acquire(client: RuntimeHttpClient) -> str | None:
    """The token of the next task, or None where there is none, or no SuperNode yet."""
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType

    try:
        answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
    except httpx.TransportError:
        return None
    except httpx.HTTPStatusError as error:
        if not is_trouble(error):
            raise
        return None
    return answer.token if answer.HasField("task") and answer.token else None


def _report_death(address: str, token: str, exitcode: int | None) -> None:
    """Mark a task as failed that died; nothing changes if it had said so after all."""
    import httpx
    from flwr.common.constant import SubStatus
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest
    from flwr.supercore.interceptors import (
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
    )
    from flwr.supercore.runtime import RuntimeHttpClient

    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
    )
    try:
        client.PushTaskOutput(
            PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=describe(exitcode))
        )
    except httpx.HTTPError:
        pass
    finally:
        client.close()
