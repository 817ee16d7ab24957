"""Folders: the state must be writable, the images readable and labelled."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common.data.image_files import SUFFIXES
from deploy.doctor.finding import Finding, error, ok

NETWORK_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"}


def check_state_folder(folder: Path) -> Finding:
    """Write, flush and delete a file, as a checkpoint does; where there is no folder yet, above."""
    owner = f"chown it to the user that runs AugFlower (here uid {os.getuid()})"
    place = nearest(folder)
    try:
        handle, path = tempfile.mkstemp(dir=place, prefix=".doctor.")
        try:
            os.write(handle, b"doctor")
            os.fsync(handle)
        finally:
            os.close(handle)
            Path(path).unlink()
    except OSError as problem:
        if place != folder.absolute():
            return error(
                "state folder",
                f"{folder} does not exist, and cannot be made in {place}: {problem.strerror}",
                f"mkdir -p {folder}, and {owner}; with Docker, mount a named volume there",
            )
        return error(
            "state folder",
            f"{folder} cannot be written: {problem.strerror}",
            f"{owner}; a read-only file system often means a worn SD card (`dmesg`)",
        )
    if place != folder.absolute():
        return ok("state folder", f"{folder} does not exist yet, and can be made in {place}")
    return ok("state folder", f"{folder} is writable")


def nearest(folder: Path) -> Path:
    """``folder``, absolute, or the nearest of those above it that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def check_database_folder(folder: Path, mounts: Path = Path("/proc/mounts")) -> Finding:
    """A SuperLink's SQLite database must not lie on a network file system."""
    kind = _file_system(folder.resolve(), mounts)
    if kind in NETWORK_SYSTEMS:
        return error(
            "database",
            f"{folder} is on {kind}: SQLite's locks do not hold there, and the database breaks",
            "put the state folder on a local disk",
        )
    return ok("database", f"{folder} is on a local file system" + (f" ({kind})" if kind else ""))


def check_data_folder(folder: Path) -> list[Finding]:
    """The device's own images: a readable folder with a subfolder of images for each class."""
    if not folder.is_dir():
        return [
            error(
                "data folder",
                f"{folder} does not exist",
                "correct data-folder in node.toml; with Docker, mount the folder under that path",
            )
        ]
    try:
        classes = {p.name: _images(p) for p in sorted(folder.iterdir()) if _is_class(p)}
    except PermissionError as problem:
        return [_unreadable(Path(problem.filename))]
    if wrong := _unlabelled(folder, classes):
        return [wrong]
    images = [path for paths in classes.values() for path in paths]
    if closed := next((path for path in images if not os.access(path, os.R_OK)), None):
        return [_unreadable(closed)]
    findings = [ok("data folder", f"{len(images)} images of {len(classes)} classes in {folder}")]
    if few := [name for name, paths in classes.items() if len(paths) < 2]:
        findings.append(
            error(
                "labels",
                f"one image only in {', '.join(few)}: a class needs one to adapt on and one to "
                "measure",
                "add images to these subfolders, or remove them",
            )
        )
    return findings


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _images(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]


def _unlabelled(folder: Path, classes: dict[str, list[Path]]) -> Finding | None:
    if not classes:
        return error(
            "labels",
            f"{folder} has no subfolders, so its images have no labels",
            "make one subfolder for each class, named after it, with the images of that class",
        )
    if empty := [name for name, paths in classes.items() if not paths]:
        return error(
            "labels",
            f"no images in {', '.join(empty)} ({', '.join(SUFFIXES)} count)",
            "put images there, or remove the subfolder",
        )
    return None


def _unreadable(path: Path) -> Finding:
    return error(
        "data folder",
        f"{path} cannot be read by uid {os.getuid()}",
        "give that user the right: chmod -R a+rX on the folder, or setfacl for it alone",
    )


def _file_system(folder: Path, mounts: Path) -> str:
    """Type of the file system that holds ``folder``, by the longest mount point above it."""
    try:
        rows = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    above = [(row[1], row[2]) for row in rows if folder.is_relative_to(row[1])]
    return max(above, key=lambda row: len(row[0]), default=("", ""))[1]
