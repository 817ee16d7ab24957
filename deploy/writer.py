"""Which process writes a run."""

from __future__ import annotations

from pathlib import Path

from server_app.runs.folder import LOCK

_LOCKS = Path("/proc/locks")


def writer(folder: Path) -> int | None:
    """The process that writes a run: its id, 0 if there is none; None if that cannot be known.

    It holds a lock on a file in the run's folder, which Linux lists. To try the lock would be in
    the way of a run that begins at that moment.
    """
    try:
        wanted = str((folder / LOCK).stat().st_ino)
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        kind, *_, process, place, _, _ = line.split()[1:]
        if kind == "FLOCK" and place.rpartition(":")[2] == wanted:
            return int(process)
    return 0
