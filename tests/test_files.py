"""Files are whole or as they were, and what cannot be written is said by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import AugFlowerError, FileError
from common.files import OPEN, OWN, write_atomic


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path):
    path = tmp_path / "new" / "file"
    for content in ("one", b"two"):
        write_atomic(path, content)
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_not_a_file(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*/folder: Is a directory"):
        write_atomic(tmp_path / "folder", "x")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("below", ["x", "x/y"])
def test_a_file_is_not_a_folder(tmp_path: Path, below: str):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FileError, match=f"/file/{below}: a part of the path is a file"):
        write_atomic(tmp_path / "file" / below, "x")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_place_where_nothing_can_be_made():
    with pytest.raises(FileError, match=r"cannot write /proc/page\.html: "):
        write_atomic(Path("/proc/page.html"), "x")


def test_it_is_an_error_of_both_kinds(tmp_path: Path):
    """The command line shows it plainly, and what survives a full disk survives it."""
    with pytest.raises(AugFlowerError) as caught:
        write_atomic(tmp_path, "x")
    assert isinstance(caught.value, OSError)
    assert caught.value.errno is not None
    assert caught.value.strerror == "Is a directory"


@pytest.mark.parametrize(
    ("umask", "mode", "expected"),
    [
        (0o022, OPEN, 0o644),
        (0o077, OPEN, 0o600),
        (0o002, OPEN, 0o664),
        (0o002, OWN, 0o600),
    ],
)
def test_the_umask_is_honoured(umask: int, mode: int, expected: int, tmp_path: Path):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", "x", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


def test_what_killed_writers_left_goes_with_the_next_write(tmp_path: Path):
    path, other = tmp_path / "a", tmp_path / ".a.safetensors.0123abcd"
    code = f"""
import os
from pathlib import Path
Path.replace = lambda *_: os._exit(1)
from common.files import write_atomic
write_atomic(Path({str(path)!r}), "torn")
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".a.")
    other.touch()  # of another file
    write_atomic(path, "whole")
    assert {*tmp_path.iterdir()} == {path, other}


def test_a_writer_at_work_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, fsync, inner = tmp_path / "a", os.fsync, ["inner"]

    def write_between(handle: int) -> None:
        if inner:
            write_atomic(path, inner.pop())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", write_between)
    write_atomic(path, "outer")
    assert path.read_text() == "outer"
    assert [*tmp_path.iterdir()] == [path]
