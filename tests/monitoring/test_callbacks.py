"""Callbacks: told in order, on a thread of their own; none can end or hold up a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import augflower
from common import extensions
from common.errors import SettingsError
from server_app.monitoring import callbacks
from server_app.monitoring.callbacks import OWN, Follower, checked, identity, named
from server_app.monitoring.status import Status
from server_app.monitoring.watch import Watch
from server_app.settings import ServerSettings
from tests.conftest import SMALL
from tests.monitoring.made import META, close


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.threads: set[str] = set()

    def begin(self, meta: Mapping[str, Any], folder: Path) -> None:
        self.told.append(("begin", meta["run"], folder))

    def round(self, line: Mapping[str, Any]) -> None:
        self.threads.add(threading.current_thread().name)
        self.told.append(line["round"])

    def end(self, how: str) -> None:
        self.told.append(how)


@pytest.mark.parametrize("how", ["finished", "failed", "stopped"])
def test_a_run_is_told_in_order(tmp_path: Path, how: str) -> None:
    listener, status = Listener(), Status()
    follower = Follower(listener, status, tmp_path, print)
    status.begin(META, 3)
    close(status, 0, 1, 2)
    status.phase(2, how)
    follower.close()
    follower.close()
    assert listener.told == [("begin", "trial", tmp_path / "trial"), 0, 1, 2, how]
    assert listener.threads == {"Listener"}


def test_each_run_has_its_beginning_and_its_end(tmp_path: Path) -> None:
    listener, status = Listener(), Status()
    follower = Follower(listener, status, tmp_path, print)
    for name in ("trial", "second"):
        status.begin(META | {"run": name}, 3)
        close(status, 0)
        while ("begin", name, tmp_path / name) not in listener.told:
            status.wait(1 << 40, 0.05)
    follower.close()
    assert listener.told == [
        ("begin", "trial", tmp_path / "trial"), 0, "stopped",
        ("begin", "second", tmp_path / "second"), 0, "stopped",
    ]  # fmt: skip


def test_nothing_is_told_where_no_run_begins(tmp_path: Path) -> None:
    listener = Listener()
    Follower(listener, Status(), tmp_path, print).close()
    assert listener.told == []


@pytest.mark.parametrize("error", [OverflowError("too large"), SystemExit(3), OSError("disk full")])
@pytest.mark.parametrize("when", ["begin", "round", "end"])
def test_one_that_fails_ends_no_run_and_no_other_callback(
    when: str, error: BaseException, small_run: Callable[..., Path], tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise error

    broken, listener, notices = Listener(), Listener(), list[str]()
    setattr(broken, when, fail)
    server = ServerSettings(runs=tmp_path, cache=tmp_path / "cache")
    with Watch(server, notices.append, [broken, listener]) as watch:
        folder = small_run("fedavg", server=server, notice=notices.append, status=watch.status)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert listener.told[1:] == [0, 1, 2, "finished"]
    said = str(error) if isinstance(error, OSError) else repr(error)
    assert [text for text in notices if "told nothing more" in text] == [
        f"Listener is told nothing more, the run goes on: {said}"
    ]


def test_one_that_hangs_holds_up_no_round(
    small_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "_STOP", 0.2)
    released, notices = threading.Event(), list[str]()

    class Hanging(Listener):
        def begin(self, meta: Mapping[str, Any], folder: Path) -> None:
            released.wait(60)

    server = ServerSettings(runs=tmp_path, cache=tmp_path / "cache")
    watch = Watch(server, notices.append, [Hanging()])
    folder = small_run("fedavg", server=server, status=watch.status)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    watch.close()
    released.set()
    assert notices == ["Hanging did not take everything in 0 s"]


def test_the_settings_name_callbacks(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with Watch(ServerSettings(runs=tmp_path, callbacks=("tensorboard",)), print):
        names = {thread.name for thread in threading.enumerate()}
    assert "TensorBoard" in names


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(SettingsError, match="no callback 'aim'; there are tensorboard, mlflow, wa"):
        named("aim")


@pytest.mark.parametrize("given", [Listener, object(), {"begin": None}])
def test_what_is_no_callback(given: Any) -> None:
    with pytest.raises(SettingsError, match=r"is no callback: give an object with begin\(meta"):
        checked(given)


@pytest.mark.parametrize("name", OWN)
def test_a_library_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = {"tensorboard": "tensorboardX"}.get(name, name)
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(SettingsError, match=rf"pip install 'augflower\[{name}\]'"):
        named(name)


def test_an_installed_package_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("keeper", f"{__name__}:Listener", "augflower.callbacks")
    monkeypatch.setattr(
        extensions, "added", lambda kind: {"keeper": point} if kind == "callbacks" else {}
    )
    assert type(named("keeper")).__name__ == "Listener"
    with pytest.raises(SettingsError, match="wandb, keeper"):
        named("keper")


def test_callbacks_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUGFLOWER_CALLBACKS", "nobody")
    listener = Listener()
    settings = {key: value for key, value in SMALL.items() if key != "method"}
    run = augflower.simulate(
        method="fedavg", rounds=2, runs=tmp_path, settings=settings, callbacks=[listener], show=None
    )
    assert listener.told == [("begin", run.folder.name, run.folder), 0, 1, 2, "finished"]
    with pytest.raises(SettingsError, match="no callback 'nobody'"):
        augflower.simulate(method="fedavg", runs=tmp_path, settings=settings, show=None)


def test_an_identity_is_the_runs_own_and_tells_no_token() -> None:
    assert identity(META) == identity(dict(META))
    assert identity(META) != identity(META | {"token": "another"})
    assert META["token"] not in identity(META)
