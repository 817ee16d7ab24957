"""The warm executor: one task at a time, and none that stops all others."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest

from deploy import warm

FORK = multiprocessing.get_context("fork")
Work = Callable[[str, str, bool], None]


@pytest.fixture
def supernode() -> Iterator[ForkProcess]:
    process = FORK.Process(target=time.sleep, args=(60,))
    process.start()
    yield process
    process.kill()
    process.join()


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, supernode: ForkProcess) -> Callable[..., None]:
    """Run tokens as tasks, each to be had from a moment (in seconds) on; then end the SuperNode."""

    class Client:
        def close(self) -> None:
            pass

    def run(work: Work, tasks: list[tuple[float, str]], last: Path) -> None:
        start, waiting = time.monotonic(), list(tasks)

        def acquire(client: Any) -> str | None:
            if last.exists():
                supernode.kill()
            if waiting and time.monotonic() - start >= waiting[0][0]:
                return waiting.pop(0)[1]
            return None

        monkeypatch.setattr(warm, "_acquire", acquire)
        monkeypatch.setattr(warm, "_connect", lambda address, secret: Client())
        monkeypatch.setattr(warm, "_work", work)
        warm.WarmExecutor("nowhere", b"", None).run(supernode)

    return run


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_LOOK", 0.05)
    monkeypatch.setattr(warm, "_POLL", 0.05)
    monkeypatch.setattr(warm, "_GOODBYE", 1.0)


def write(path: Path) -> None:
    path.write_text(str(time.monotonic()))


def test_a_task_that_its_supernode_has_left_does_not_stop_the_next(execute, tmp_path, caplog):
    """As after a run that was killed while the device was fetching a message."""

    def work(address: str, token: str, quick: bool) -> None:
        write(tmp_path / f"{token}-began")
        if token == "left":
            time.sleep(60)
        write(tmp_path / token)
        sys.exit(warm._SAID_GOODBYE)

    execute(work, [(0.0, "left"), (0.2, "next")], tmp_path / "next")
    assert not (tmp_path / "left").exists()
    assert "gone on without it" in caplog.text
    assert "signal SIGTERM" in caplog.text


def test_a_task_that_is_saying_goodbye_ends_before_the_next_begins(execute, tmp_path, caplog):
    def work(address: str, token: str, quick: bool) -> None:
        write(tmp_path / f"{token}-began")
        time.sleep(0.6)
        write(tmp_path / token)
        sys.exit(warm._SAID_GOODBYE)

    execute(work, [(0.0, "first"), (0.2, "next")], tmp_path / "next")
    first, following = tmp_path / "first", tmp_path / "next-began"
    assert float(first.read_text()) < float(following.read_text())
    assert caplog.text == ""


def test_nothing_hinders_a_long_task(execute, tmp_path, caplog):
    def work(address: str, token: str, quick: bool) -> None:
        time.sleep(1.5)
        write(tmp_path / token)
        sys.exit(warm._SAID_GOODBYE)

    execute(work, [(0.0, "long")], tmp_path / "long")
    assert caplog.text == ""
