"""TensorBoard files: every figure once, also after a run went on."""

from __future__ import annotations

import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import SettingsError
from server_app.monitoring.callbacks import Follower
from server_app.monitoring.scalars import scalars
from server_app.monitoring.status import Status
from server_app.monitoring.tensorboard import TensorBoard
from server_app.monitoring.watch import Watch
from server_app.settings import ServerSettings
from tests.monitoring.made import META, close, line

pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")


def events(folder: Path) -> Iterator[Any]:
    """All events in the folder's files, the oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event()
            event.ParseFromString(content[12 : 12 + length])
            content = content[16 + length :]
            yield event


def drawn(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard draws them: a start drops later steps of before."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for event in events(folder):
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            for points in found.values():
                points[:] = [(step, value) for step, value in points if step < event.step]
        for value in event.summary.value:
            found[value.tag].append((event.step, value.simple_value))
    return found


def test_every_figure_of_a_round() -> None:
    status = Status()
    status.begin(META, 3)
    close(status, 2)
    [short] = status.snapshot()["lines"]
    assert dict(scalars(short)) == {
        "accuracy/before": 0.1, "accuracy/after": 0.7, "loss/before": 2.0, "loss/after": 1.0,
        "train/loss": 0.5, "method/rho": 0.7, "method/primal_residual": 0.5,
        "seconds/evaluate": 0.5, "seconds/checkpoint": 0.1, "seconds/train": 1.0,
        "bytes/down": 1000, "bytes/up": 500,
        "replies/admitted": 1, "replies/missing": 0, "replies/rejected": 1,
    }  # fmt: skip


def test_what_is_not_finite_is_left_out() -> None:
    found = dict(scalars({"round": 1, "train": {"loss": float("nan")}, "method": {"rho": None}}))
    assert found == {}


def test_a_run_that_goes_on_is_drawn_once(tmp_path: Path) -> None:
    folder = tmp_path / "trial" / "tensorboard"
    for rounds in ((0, 1, 2), (0, 1, 2, 3)):
        status = Status()
        board = Follower(TensorBoard(), status, tmp_path, print)
        status.begin(META, 3)
        close(status, *rounds)
        board.close()
        board.close()
    assert len(list(folder.iterdir())) >= 1
    found = drawn(folder)
    assert found["accuracy/after"] == [(r, pytest.approx(0.5 + 0.1 * r)) for r in range(4)]
    assert [step for step, _ in found["method/rho"]] == [1, 2, 3]


def test_events_have_the_time_of_their_round(tmp_path: Path) -> None:
    status = Status()
    board = Follower(TensorBoard(), status, tmp_path, print)
    status.begin(META, 3)
    close(status, 1)
    board.close()
    times = {e.wall_time for e in events(tmp_path / "trial" / "tensorboard") if e.summary.value}
    assert times == {1795234331.0}
    assert line(1)["time"] == "2026-11-21T04:12:11+0000"


def test_a_second_run_has_its_own_folder(tmp_path: Path) -> None:
    status = Status()
    board = Follower(TensorBoard(), status, tmp_path, print)
    for name in ("trial", "second"):
        status.begin(META | {"run": name}, 3)
        close(status, 0, 1)
        while len(list(tmp_path.iterdir())) < (1 if name == "trial" else 2):
            status.wait(1 << 40, 0.05)
    board.close()
    for name in ("trial", "second"):
        assert len(drawn(tmp_path / name / "tensorboard")["accuracy/after"]) == 2


def test_a_folder_that_cannot_be_written_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "trial").write_text("in the way")
    notices: list[str] = []
    status = Status()
    board = Follower(TensorBoard(), status, tmp_path, notices.append)
    status.begin(META, 3)
    close(status, 0)
    board.close()
    [notice] = notices
    assert notice.startswith("TensorBoard is told nothing more, the run goes on:")


def test_without_the_library_the_run_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(SettingsError, match=r"pip install 'augflower\[tensorboard\]'"):
        Watch(ServerSettings(runs=tmp_path, callbacks=("tensorboard",)), print)


def test_a_real_run_and_its_resumption(tmp_path: Path, small_run: Any) -> None:
    server = ServerSettings(runs=tmp_path, callbacks=("tensorboard",))
    config = {"augfl.lambda": 0.0, "run-name": "real"}
    for rounds, resume in ((2, False), (4, True)):
        with Watch(server, print) as watch:
            small_run(
                "augfl", config | {"rounds": rounds, "resume": resume}, server=server,
                status=watch.status,
            )  # fmt: skip
    found = drawn(tmp_path / "real" / "tensorboard")
    assert [step for step, _ in found["accuracy/after"]] == [0, 1, 2, 3, 4]
    assert [step for step, _ in found["replies/admitted"]] == [1, 2, 3, 4]
    assert [step for step, _ in found["bytes/up"]] == [0, 1, 2, 3, 4]
