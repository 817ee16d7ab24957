"""Run on a fleet that is up: submit, show what the server says, and go on where it was killed.

Flower cannot resume a ServerApp: one whose process or machine died is a failed run to it. AugFlower
keeps a checkpoint every round, so the command that watches a run submits it again, as its
continuation, for as long as rounds get done in between.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from common.errors import FleetError, RunError
from deploy.control import Control, RunStatus, Scalar
from server_app.app import FOLDER_LINE
from server_app.runs.folder import begun_by

TIMEOUT = 600.0
"""Seconds for which a SuperLink may be away, as when its machine starts anew."""

TAKEN = 10.0
"""Seconds after which a run that no executor has taken is told of."""

RESUMPTIONS = 3
"""Times in a row that a run is submitted again without a round in between."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FLOWER = re.compile(r"(DEBUG|INFO|WARNING|ERROR) ?:|Successfully installed ")
_ROUND = re.compile(r"round +(\d+)/\d+ ")
_KILLED = "No heartbeat"

Show = Callable[[str], None]


def run_on_fleet(control: Control, app: Path, config: Mapping[str, Scalar], show: Show) -> str:
    """Submit a run, follow it to its end, and give the path of its folder on the server.

    Ctrl-C stops the run.

    Parameters
    ----------
    config: public settings; ``run-name`` is needed, by which devices find their memory again.
    show: gets each line that the server says.

    Raises
    ------
    FleetError: the SuperLink refused the run, or is gone.
    RunError: the run failed or was stopped.
    """
    settings, idle, reached, folder = dict(config), 0, -1, ""
    submitted: list[int] = []
    while True:
        run_id = control.submit(app, settings)
        lines, before = _Lines(), reached
        try:
            _await_executor(control, run_id, show)
            for line in _follow(control, run_id, lines):
                if match := _ROUND.match(line):
                    reached = max(reached, int(match[1]))
                show(line)
        except KeyboardInterrupt:
            control.stop(run_id)
        status, folder = _status(control, run_id), lines.folder or folder
        if status.result == "completed":
            return folder
        # One that was killed before it could say so had begun all the same; the folder tells.
        ours = any(begun_by(earlier) in status.details for earlier in submitted)
        submitted.append(run_id)
        idle = 0 if reached > before else idle + (not ours)
        killed = _KILLED in status.details or ours
        if status.result != "failed" or not killed or idle > RESUMPTIONS:
            raise RunError(_why(folder, status))
        if lines.folder or ours:  # there is something to go on with
            settings["resume"] = True
        if not ours:
            show("the server's process was killed; going on from its last checkpoint")


def look_on(control: Control, run_id: int, show: Show) -> None:
    """Show what a run has said and says, until its end.

    Raises
    ------
    FleetError: the SuperLink has no such run, or is gone.
    RunError: the run failed or was stopped.
    """
    control.status(run_id)  # one that there is not would be waited for
    lines = _Lines()
    for line in _follow(control, run_id, lines):
        show(line)
    status = _status(control, run_id)
    if status.result != "completed":
        raise RunError(_why(lines.folder, status))


class _Lines:
    """Puts parts of an output together to lines, without those of Flower."""

    def __init__(self) -> None:
        self.folder = ""
        self._rest = ""
        self._foreign = False

    def feed(self, text: str) -> Iterator[str]:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            plain = _COLOUR.sub("", line).rstrip()
            # Flower's own lines begin with a level; what follows indented belongs to them.
            self._foreign = bool(_FLOWER.match(plain)) or (
                self._foreign and plain[:1] in ("", " ", "\t")
            )
            # It is said before any device is heard; what looks like it later is another's.
            if plain.startswith(FOLDER_LINE) and not self.folder:
                self.folder = plain.removeprefix(FOLDER_LINE)
            elif plain and not self._foreign:
                yield plain


def _await_executor(control: Control, run_id: int, show: Show) -> None:
    """Wait until an executor has taken a run, and say so where none does."""
    late = time.monotonic() + TAKEN
    while _status(control, run_id).status == "pending":
        if time.monotonic() > late:
            late = math.inf
            show(
                f"no executor has taken the run in {TAKEN:.0f} s: is one running beside the "
                "SuperLink? (augflower up --kit, or systemctl status augflower-executor)"
            )
        time.sleep(0.2)


def _follow(control: Control, run_id: int, lines: _Lines) -> Iterator[str]:
    after = 0.0
    while True:
        try:
            for text, stamp in control.output(run_id, after):
                after = stamp
                yield from lines.feed(text)
        except FleetError:
            time.sleep(1)  # it may be back soon
        if _status(control, run_id).finished:
            return


def _status(control: Control, run_id: int) -> RunStatus:
    """Where a run stands; asks until there is an answer, for as long as a SuperLink may be away."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return control.status(run_id)
        except FleetError:
            if time.monotonic() > end:
                raise
        time.sleep(1)


def _why(folder: str, status: RunStatus) -> str:
    details = status.details.removeprefix("ServerApp failed with exception: ").strip()
    words = f"the run {status.result}: {details}" if details else f"the run {status.result}"
    if status.result == "stopped":
        words = "the run was stopped"
    if not folder:
        return words
    return (
        f"{words}; what it reached is in {folder}, go on with: "
        f"augflower resume {folder} --superlink HOST:PORT"
    )
