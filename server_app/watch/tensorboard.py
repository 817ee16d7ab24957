"""TensorBoard files of a run, in ``tensorboard`` of its folder; written by a thread of their own.

A run that goes on writes all its rounds once more into a new file, after the mark with which
TensorBoard drops what older files hold from that step on: no round is drawn twice.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import SettingsError
from server_app.status import Status
from server_app.watch.reader import Reader

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

Notice = Callable[[str], None]
FOLDER = "tensorboard"
_PAUSE = 0.5  # seconds in which changes gather
_FLUSH = 5  # seconds after which what was written is on disk at the latest
_STOP = 5.0  # seconds


class TensorBoard:
    """Writes every round of a status as it is closed."""

    def __init__(self, status: Status, runs: Path, notice: Notice) -> None:
        """Begin to follow ``status``.

        Parameters
        ----------
        runs: folder that holds the runs' folders.

        Raises
        ------
        SettingsError: the library for it is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise SettingsError(
                "AUGFLOWER_TENSORBOARD=1 needs a library: pip install 'augflower[tensorboard]'"
            ) from None
        self._new_writer: Callable[..., SummaryWriter] = SummaryWriter
        self._reader = Reader(status)
        self._runs = runs
        self._notice = notice
        self._begins = 0
        self._written = 0
        self._writer: SummaryWriter | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tensorboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left and end; a second time does nothing."""
        self._closing.set()
        self._thread.join(_STOP)

    def _follow(self) -> None:
        version = -1
        try:
            while not self._closing.is_set():
                version = self._reader.status.wait(version, _PAUSE)
                self._write()
                self._closing.wait(_PAUSE)
            self._write()
            if self._writer is not None:
                self._writer.close()
        except Exception as error:
            said = str(error) if isinstance(error, OSError) else repr(error)
            self._notice(f"no more TensorBoard files, the run goes on: {said}")

    def _write(self) -> None:
        seen, lines = self._reader.read(), self._reader.lines
        if seen["begins"] != self._begins:
            self._begins, self._written = seen["begins"], 0
            if self._writer is not None:
                self._writer.close()
            self._writer = None
        for line in lines[self._written :]:
            if self._writer is None:
                folder = self._runs / seen["meta"]["run"] / FOLDER
                self._writer = self._new_writer(
                    str(folder), purge_step=line["round"], flush_secs=_FLUSH
                )
            for tag, value in scalars(line):
                self._writer.add_scalar(tag, value, line["round"], walltime=_unix(line))
            self._written += 1


def scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Tag and value of every figure of a line of the record that is finite."""
    judged = line.get("evaluation") or {}
    found = {f"accuracy/{when}": judged.get(f"accuracy_{when}") for when in ("before", "after")}
    found |= {f"loss/{when}": judged.get(f"loss_{when}") for when in ("before", "after")}
    found |= {f"train/{name}": value for name, value in line.get("train", {}).items()}
    found |= {f"method/{name}": value for name, value in line.get("method", {}).items()}
    found |= {f"seconds/{name}": value for name, value in line.get("seconds", {}).items()}
    found |= {f"bytes/{way}": line.get(f"bytes_{way}") for way in ("down", "up")}
    if line.get("asked"):
        found |= {
            "replies/admitted": line["replies"],
            "replies/missing": line["missing"],
            "replies/rejected": line["rejected"],
        }
    for tag, value in found.items():
        if value is not None and math.isfinite(value):
            yield tag, value


def _unix(line: dict[str, Any]) -> float | None:
    """Unix seconds at which a round was closed; None, which is now, where the line has no time."""
    return datetime.fromisoformat(line["time"]).timestamp() if line.get("time") else None
