"""The folder of a run: crashes at its beginning, damage, and disks that refuse."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import AugFlowerError, RunError
from common.tensors import Tensors
from server_app.monitoring.status import Status
from server_app.runs.folder import RunFolder
from server_app.runs.secret import read_secret

META = {"method": "augfl", "settings": {}}


def begin(root: Path, name: str = "a") -> RunFolder:
    return RunFolder.create(root, name, META)


def left(root: Path) -> list[str]:
    return sorted(item.name for item in (root / "a").iterdir())


def save(folder: RunFolder, round: int, keep: int = 3) -> None:
    groups = {"model": Tensors.pack({"w": np.full(3, round, np.float32)})}
    folder.save_checkpoint(round, groups, {}, {"round": round}, keep)
    folder.append({"round": round})


@pytest.mark.parametrize("torn", [(), (".lock",), (".lock", ".run.json.k2"), ("metrics.jsonl",)])
def test_what_a_crash_leaves_before_run_json_counts_as_nothing(torn: tuple[str, ...], tmp_path):
    (tmp_path / "a").mkdir()
    for name in torn:
        (tmp_path / "a" / name).touch()
    begin(tmp_path).finish("finished")
    assert left(tmp_path) == [".lock", ".secret", "metrics.jsonl", "run.json"]


@pytest.mark.parametrize("name", ["run.json", "notes.txt", "models"])
def test_anything_else_is_a_run_that_exists(name: str, tmp_path: Path):
    (tmp_path / "a" / name).mkdir(parents=True)
    with pytest.raises(RunError, match="run 'a' exists in"):
        begin(tmp_path)


def test_a_run_without_its_record_goes_on(tmp_path: Path):
    begin(tmp_path).finish("failed")
    (tmp_path / "a" / "metrics.jsonl").unlink()
    folder = RunFolder.reopen(tmp_path, "a")
    assert folder.load_checkpoint(print) is None
    assert folder.mend_record(0, {}, print) == []


def test_torn_files_are_removed_wherever_they_are(tmp_path: Path):
    folder = begin(tmp_path)
    save(folder, 0)
    folder.finish("failed")
    for name in (".run.json.x", ".metrics.jsonl.x", "checkpoints/.round-000001.safetensors.x"):
        (tmp_path / "a" / name).write_text("{")
    RunFolder.reopen(tmp_path, "a")
    assert left(tmp_path) == [".lock", ".secret", "checkpoints", "metrics.jsonl", "run.json"]
    assert [path.name for path in (tmp_path / "a/checkpoints").iterdir()] == [
        "round-000000.safetensors"
    ]


def test_a_record_is_read_line_by_line_whatever_is_in_it(tmp_path: Path):
    folder = begin(tmp_path)
    folder.append({"round": 1, "reason": "one\u2028two"})
    with (tmp_path / "a" / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"round": 2, "x')
    assert folder.mend_record(5, {"round": 5}, print) == [
        {"round": 1, "reason": "one\u2028two"},
        {"round": 5},
    ]


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xff", b"[]", b"null", b"{}", b'{"settings": [], "token": "x"}'],
)
def test_a_damaged_run_json_is_named(content: bytes, tmp_path: Path):
    begin(tmp_path).finish("failed")
    (tmp_path / "a" / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"a/run\.json cannot be read as a run: .*restore the file"):
        RunFolder.reopen(tmp_path, "a")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/runs/a cannot be used: .*AUGFLOWER_RUNS names"):
        begin(tmp_path / "file" / "runs")


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_all(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [damage_half, damage_all])
def test_the_newest_whole_checkpoint_is_gone_back_to(
    damage: Callable[[Path], None], tmp_path: Path
):
    folder, told = begin(tmp_path), list[str]()
    for round in range(4):
        save(folder, round)
    for round in (2, 3):
        damage(tmp_path / f"a/checkpoints/round-{round:06}.safetensors")
    kept = folder.load_checkpoint(told.append)
    assert kept is not None
    assert kept[0] == 1
    assert kept[1]["model"].unpack()["w"].tolist() == [1, 1, 1]
    assert ["round-000003" in told[0], "round-000002" in told[1]] == [True, True]
    assert [line["round"] for line in folder.mend_record(1, kept[2]["line"], print)] == [0, 1]
    save(folder, 2, keep=1)
    assert sorted(path.name for path in (tmp_path / "a/checkpoints").iterdir()) == [
        "round-000002.safetensors",
        "round-000002.safetensors.damaged",
        "round-000003.safetensors.damaged",
    ]


def test_without_a_whole_checkpoint_nothing_is_changed(tmp_path: Path):
    folder = begin(tmp_path)
    for round in range(2):
        save(folder, round)
        damage_half(tmp_path / f"a/checkpoints/round-{round:06}.safetensors")
    with pytest.raises(AugFlowerError, match=r"round-000001\.safetensors is damaged"):
        folder.load_checkpoint(print)
    assert len(list((tmp_path / "a/checkpoints").glob("*.safetensors"))) == 2


@pytest.mark.parametrize("method", ["augfl", "fml"])
def test_a_run_goes_on_from_before_a_damaged_checkpoint(
    method: str, small_run: Callable[..., Path], tmp_path: Path
):
    settings = {"augfl.lambda": 0.0, "evaluation.every": 2, "run-name": "a", "rounds": 3}
    memory = {"memory": tmp_path / "devices"}
    whole = small_run(method, settings | {"run-name": "whole", "rounds": 4})
    run = small_run(method, settings, **memory)
    damage_half(run / "checkpoints" / "round-000003.safetensors")
    told: list[str] = []
    more = settings | {"resume": True, "rounds": 4}
    small_run(method, more, notice=told.append, **memory)
    assert any("round-000002.safetensors is gone back to" in line for line in told)
    record = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in record] == [0, 1, 2, 3, 4]
    assert json.loads((run / "run.json").read_text())["resumed_from"] == "round 2"
    losses = [
        [json.loads(line).get("train") for line in (path / "metrics.jsonl").open()]
        for path in (whole, run)
    ]
    assert losses[0] == losses[1]


def test_a_full_disk_ends_a_run_with_the_first_reason(
    small_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing can be written from the second line of the record on, not even how it ended."""
    told, status = list[str](), Status()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def append(self: RunFolder, line: dict[str, Any]) -> None:
        if line["round"] == 1:
            monkeypatch.setattr("server_app.runs.folder.write_json", full)
            raise OSError(28, "No space left on device", str(self.path / "metrics.jsonl"))

    monkeypatch.setattr(RunFolder, "append", append)
    with pytest.raises(RunError, match=r"metrics\.jsonl'; .* augflower resume"):
        small_run("fedavg", {"run-name": "a"}, notice=told.append, status=status)
    assert status.snapshot()["phase"] == "failed"
    assert any("run.json cannot be used: [Errno 28]" in line for line in told)


def test_only_the_owner_may_read_checkpoints_and_the_secret(small_run: Callable[..., Path]):
    """They hold features of the private model; the rest is for whoever the umask lets read."""
    before = os.umask(0o022)
    try:
        run = small_run("fedavg", {"rounds": 1})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()}
    assert {modes.pop(f"round-00000{n}.safetensors") for n in (0, 1)} == {0o600}
    assert modes.pop(".secret") == 0o600
    assert set(modes.values()) == {0o644}


def test_the_secret_of_a_run_is_kept_for_its_owner_alone(tmp_path: Path):
    RunFolder.create(tmp_path, "a", META).finish("stopped")
    RunFolder.create(tmp_path, "b", META).finish("stopped")
    secret = read_secret(tmp_path / "a")
    assert secret != read_secret(tmp_path / "b")
    assert (tmp_path / "a/.secret").stat().st_mode & 0o777 == 0o600
    RunFolder.reopen(tmp_path, "a").finish("stopped")
    assert read_secret(tmp_path / "a") == secret


@pytest.mark.parametrize("content", [None, "", "ab", "not hexadecimal", "ab" * 33])
def test_a_run_without_its_secret_cannot_go_on(tmp_path: Path, content: str | None):
    RunFolder.create(tmp_path, "a", META).finish("stopped")
    (tmp_path / "a/.secret").unlink()
    if content is not None:
        (tmp_path / "a/.secret").write_text(content)
    with pytest.raises(RunError, match=r"a/\.secret.*begin"):
        read_secret(tmp_path / "a")
