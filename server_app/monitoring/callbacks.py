"""Callbacks: whoever keeps a run's figures elsewhere is told of them through one interface.

Each callback is told on a thread of its own, so that a slow one holds up no round. One that fails
is told nothing more, which is a notice; the run goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from common import extensions
from common.errors import AugFlowerError, SettingsError
from server_app.monitoring.reader import Reader
from server_app.monitoring.status import ENDS, Status

Notice = Callable[[str], None]

KIND = "callbacks"
_HERE = "server_app.monitoring"
OWN = {
    point.name: point
    for point in (
        EntryPoint("tensorboard", f"{_HERE}.tensorboard:TensorBoard", extensions.PREFIX + KIND),
        EntryPoint("mlflow", f"{_HERE}.mlflow:MLflow", extensions.PREFIX + KIND),
        EntryPoint("wandb", f"{_HERE}.wandb:WeightsAndBiases", extensions.PREFIX + KIND),
    )
}
"""Callbacks by name, each an extra of the same name; installed packages add others."""

_PAUSE = 0.5  # seconds in which changes gather
_STOP = 30.0  # seconds; there may be something left to send


@runtime_checkable
class Callback(Protocol):
    """What is told of a run; all on one thread, ``begin`` first and ``end`` last.

    What it raises is a notice, and it is told nothing more.
    """

    def begin(self, meta: Mapping[str, Any], folder: Path) -> None:
        """A run begins, or goes on; then its rounds so far are told once more.

        Parameters
        ----------
        meta: what ``run.json`` holds: method, settings, seeds, versions.
        folder: of the run.
        """

    def round(self, line: Mapping[str, Any]) -> None:
        """A round is over; ``line`` is its line of the record, without nodes and clients."""

    def end(self, how: str) -> None:
        """The run is "finished", "failed" or "stopped"; another one may begin."""


def named(name: str) -> Callback:
    """A new callback: one of ``OWN``, or what an installed package adds to ``augflower.callbacks``.

    Raises
    ------
    SettingsError: there is none of that name, or its library is not installed or not set up.
    """
    added = extensions.added(KIND)
    if name in OWN:
        try:
            return OWN[name].load()()
        except ImportError as error:
            raise SettingsError(
                f"the callback {name} needs a library: pip install 'augflower[{name}]' ({error})"
            ) from error
    if name in added:
        return checked(extensions.load(KIND, name)())
    raise SettingsError(f"there is no callback {name!r}; there are {', '.join([*OWN, *added])}")


def checked(callback: Any) -> Callback:
    """The same object.

    Raises
    ------
    SettingsError: it is no callback.
    """
    if isinstance(callback, type) or not isinstance(callback, Callback):
        raise SettingsError(
            f"{callback!r} is no callback: give an object with begin(meta, folder), round(line) "
            f"and end(how), or one of {', '.join(OWN)}"
        )
    return callback


def identity(meta: Mapping[str, Any]) -> str:
    """16 letters by which a tracker knows a run again that goes on; they do not tell its token."""
    return sha256(f"identity of {meta['token']}".encode()).hexdigest()[:16]


class Follower:
    """Follows a status and tells one callback of each run in it."""

    def __init__(self, callback: Callback, status: Status, runs: Path, notice: Notice) -> None:
        """Begin to follow ``status``.

        Parameters
        ----------
        runs: folder that holds the runs' folders.
        """
        self._callback = callback
        self._name = type(callback).__name__
        self._reader = Reader(status)
        self._runs = runs
        self._notice = notice
        self._begins = 0
        self._told = 0
        self._open = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell what is left and end; a second time does nothing."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join(_STOP)
            if self._thread.is_alive():
                self._notice(f"{self._name} did not take everything in {_STOP:.0f} s")

    def _follow(self) -> None:
        version = -1
        try:
            while not self._closing.is_set():
                version = self._reader.status.wait(version, _PAUSE)
                self._tell()
                self._closing.wait(_PAUSE)
            self._tell()
            self._end("stopped")
        except (Exception, SystemExit) as error:
            said = str(error) if isinstance(error, AugFlowerError | OSError) else repr(error)
            self._notice(f"{self._name} is told nothing more, the run goes on: {said}")

    def _tell(self) -> None:
        seen = self._reader.read()
        if seen["begins"] != self._begins:
            self._end("stopped")
            self._begins, self._told, self._open = seen["begins"], 0, True
            self._callback.begin(seen["meta"], self._runs / seen["meta"]["run"])
        for line in self._reader.lines[self._told :]:
            self._callback.round(line)
            self._told += 1
        if seen["phase"] in ENDS:
            self._end(seen["phase"])

    def _end(self, how: str) -> None:
        if self._open:
            self._open = False
            self._callback.end(how)
