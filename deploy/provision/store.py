"""Files that others must not read, written whole, and only when they change."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path

from common.errors import FleetError
from common.files import write_atomic

SECRET, PUBLIC, PROGRAM, FOLDER = 0o600, 0o644, 0o755, 0o700
LOCK = ".lock"


@dataclass(frozen=True)
class KitFile:
    """Content and mode of one file of a kit."""

    content: bytes
    mode: int = PUBLIC


Kit = Mapping[str, KitFile]  # path inside the kit -> file


def make_private(folder: Path) -> None:
    """Make ``folder`` with mode 0700, or give it that mode."""
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER)
    if stat.S_IMODE(folder.stat().st_mode) != FOLDER:  # only its owner may ask for it
        folder.chmod(FOLDER)


def put(path: Path, content: bytes, mode: int) -> bool:
    """Write a file whose folder is private; untouched, and False, when it is already so."""
    if path.is_file() and path.read_bytes() == content:
        path.chmod(mode)
        return False
    make_private(path.parent)
    write_atomic(path, content)
    path.chmod(mode)
    return True


def put_kit(folder: Path, kit: Kit) -> bool:
    """Write a kit as a folder and, beside it, as ``<folder>.tar.gz``; True when it changed."""
    make_private(folder)
    changed = [put(folder / name, file.content, file.mode) for name, file in kit.items()]
    archive = folder.with_name(f"{folder.name}.tar.gz")
    return put(archive, pack(f"augflower-{folder.name}", kit), SECRET) or any(changed)


def pack(root: str, kit: Kit) -> bytes:
    """A ``.tar.gz`` of a kit under one private folder; the same bytes for the same kit."""
    buffer = io.BytesIO()
    with (
        GzipFile(fileobj=buffer, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        folders = {str(Path(root, name).parent) for name in kit}
        for folder in sorted({root} | folders):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, FOLDER
            archive.addfile(entry)
        for name, file in sorted(kit.items()):
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def require_free(folder: Path, leftover: str) -> None:
    """Refuse to make a fleet among the files of somebody else.

    Empty folders are no obstacle: a container engine makes those that it shall mount.

    Parameters
    ----------
    leftover: beginning of a file's name that an interrupted call may have left.

    Raises
    ------
    FleetError: ``folder`` is a file, or holds one that this program did not leave there.
    """
    if folder.exists() and not folder.is_dir():
        raise FleetError(f"{folder} is not a folder: give another one with --fleet")
    for path in folder.rglob("*"):
        ours = path.parent == folder and (path.name == LOCK or path.name.startswith(leftover))
        if (path.is_symlink() or not path.is_dir()) and not ours:
            raise FleetError(
                f"{folder} holds other files ({path.relative_to(folder)}) and no fleet: give a "
                "new or an empty folder with --fleet"
            )


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Name what cannot be read or written while ``folder`` is worked on.

    Raises
    ------
    FleetError: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        raise FleetError(
            f"{error.filename or folder} cannot be used ({error.strerror}): check the rights on "
            f"{folder} and the space there"
        ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an existing ``folder`` for one writer.

    Raises
    ------
    FleetError: another process is at work on it, or it cannot be read or written.
    """
    with usable(folder):
        handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, SECRET)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise FleetError(
                f"{folder} is being provisioned by another process; wait for it"
            ) from None
        finally:
            os.close(handle)
