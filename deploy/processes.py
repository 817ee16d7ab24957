"""A process with a log file and a process group of its own, so that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import FleetError


class Process:
    """A named process, and all that it starts and does not move out of its group."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment) | {"PYTHONUNBUFFERED": "1"}
        self._popen: subprocess.Popen[bytes] | None = None
        self._start_of_log = 0

    def start(self) -> None:
        """Start it; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as file:
            self._start_of_log = file.tell()
            self._popen = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def pids(self) -> list[int]:
        """Process ids of its group, itself first; none where it does not run."""
        if not self.running:
            return []
        assert self._popen is not None
        group, found = self._popen.pid, []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # After the name, which may hold anything: state, parent, group.
                if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                    found.append(int(folder.name))
        return sorted(found, key=lambda pid: (pid != group, pid))

    def output(self) -> str:
        """What it has written since it was last started."""
        with self.log.open("rb") as file:
            file.seek(self._start_of_log)
            return file.read().decode(errors="replace")

    def check(self) -> None:
        """Notice that it ended.

        Raises
        ------
        FleetError: it ended by itself, with the last lines of its log.
        """
        if self._popen is not None and (code := self._popen.poll()) is not None:
            last = "\n".join(self.output().splitlines()[-15:])
            raise FleetError(
                f"{self.name} ended with exit code {code}; {self.log} ends with:\n{last}"
            )

    def ask_to_stop(self) -> None:
        """SIGTERM to the whole group; does not wait."""
        self._signal(signal.SIGTERM)

    def finish(self, deadline: float) -> None:
        """Wait until ``deadline`` (time.monotonic), then kill whatever is left of the group."""
        if self._popen is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, as when the power goes."""
        self._signal(signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait()
            self._popen = None

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)


def stop_all(processes: Sequence[Process], grace: float) -> None:
    """Stop several at the same time; what is not gone after ``grace`` seconds is killed."""
    for process in processes:
        process.ask_to_stop()
    deadline = time.monotonic() + grace
    for process in processes:
        process.finish(deadline)
