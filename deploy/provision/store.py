"""Files that others must not read, written whole, and only when they change."""

from __future__ import annotations

import fcntl
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path

from common.errors import FleetError
from common.files import write_atomic

SECRET, PUBLIC, PROGRAM, FOLDER = 0o600, 0o644, 0o755, 0o700


@dataclass(frozen=True)
class KitFile:
    """Content and mode of one file of a kit."""

    content: bytes
    mode: int = PUBLIC


Kit = Mapping[str, KitFile]  # path inside the kit -> file


def make_private(folder: Path) -> None:
    """Make ``folder`` with mode 0700, or give it that mode."""
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER)
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one writer.

    Raises
    ------
    FleetError: another process is at work on it.
    """
    make_private(folder)
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, SECRET)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FleetError(f"{folder} is being provisioned by another process; wait for it") from None
    finally:
        os.close(handle)
