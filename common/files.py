"""Files that are whole or absent: written beside their place, flushed, then renamed."""

import contextlib
import fcntl
import glob
import json
import os
import secrets
from pathlib import Path
from typing import Any

from common.errors import FileError

OPEN, OWN = 0o666, 0o600
"""Modes of a file, before the umask: for whoever it lets read, and for its owner alone."""


def write_atomic(path: Path, content: bytes | str, mode: int = OPEN) -> None:
    """Write ``content`` to ``path`` so that a reader, or a crash, never sees half of it.

    Parameters
    ----------
    mode: of the file, from which the umask takes away.

    Raises
    ------
    FileError: it cannot be written there; what was there stays.
    """
    try:
        _write(path, content, mode)
    except OSError as error:
        reason = error.strerror
        if isinstance(error, FileExistsError | NotADirectoryError):  # met on the way to the folder
            reason = "a part of the path is a file, not a folder"
        raise FileError(error.errno, reason, str(path)) from error


def _write(path: Path, content: bytes | str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    remove_abandoned(path.parent, glob.escape(path.name))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Made by hand, because tempfile leaves the umask aside.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # Without this, the rename itself may be lost when the power goes.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Remove what killed writers have left in ``folder``; who still writes has a lock.

    Parameters
    ----------
    name: of the file that was to be written, as a pattern.
    """
    for left in folder.glob(f".{name}.{'[0-9a-f]' * 8}"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
