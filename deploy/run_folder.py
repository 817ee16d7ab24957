"""Runs by their names, and the process that writes one."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import RunError


def find_run(run: str) -> Path:
    """The folder of a run, given itself or by its name in the folder of runs.

    Raises
    ------
    RunError: there is no such run.
    """
    from server_app.runs.folder import META

    runs = Path(os.environ.get("AUGFLOWER_RUNS") or "runs").expanduser()
    for folder in (Path(run), runs / run):
        if (folder / META).is_file():
            return folder
    raise RunError(
        f"there is no run {run!r}, neither as a folder nor in {runs}; augflower runs FOLDER lists "
        "those of a folder"
    )


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs directly below a folder."""
    from server_app.runs.folder import META

    return [path.parent for path in sorted(folder.glob(f"*/{META}"))]


def writer(folder: Path) -> int | None:
    """The process that writes a run: its id, 0 if there is none; None if that cannot be known.

    It holds a lock on a file in the run's folder, which Linux lists. To try the lock would be in
    the way of a run that begins at that moment.
    """
    from server_app.runs.folder import LOCK

    try:
        lock = (folder / LOCK).resolve(strict=True)
        wanted = str(lock.stat().st_ino)
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        kind, *_, process, place, _, _ = line.split()[1:]
        # Another file system may have a file of that number.
        if kind == "FLOCK" and place.rpartition(":")[2] == wanted and _has_open(process, lock):
            return int(process)
    return 0


def _has_open(process: str, file: Path) -> bool:
    """Whether a process has a file open; taken for true where one may not know."""
    try:
        return any(link.readlink() == file for link in Path("/proc", process, "fd").iterdir())
    except OSError:
        return True
