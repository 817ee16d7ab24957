"""One flipped bit in any file that a resumed run reads: the same result, or an error that names it.

A file is altered and the run goes on; every bit of a small file, some bits of the files of a run.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ModelError, RunError
from common.files import read_json
from common.tensorfile import dump, parse
from common.tensors import Tensors
from server_app.report import single
from server_app.runs.folder import RunFolder, read_settled
from server_app.runs.record import read_run
from tests.test_crash import record

SETTINGS = {
    "run-name": "a", "rounds": 4, "evaluation.every": 1, "data.sources": 2, "data.targets": 1,
    "augfl.lambda": 1.0, "knowledge.crd": 1.0, "knowledge.kl": 0.0,
}  # fmt: skip
FLIPS = 16
"""Of each file of a run; every one is a run that is resumed."""


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def bits_of(path: Path, count: int) -> list[int]:
    """Bits all over a file, the first and last byte among them."""
    size = 8 * path.stat().st_size
    return [0, size - 1, *random.Random(path.name).sample(range(size), count - 2)]


def test_every_bit_of_a_file_of_tensors_counts():
    groups = {"model": Tensors.pack({"w": np.arange(6, dtype=np.float32), "n": np.array(3)})}
    content = dump(groups, {"round": 3, "name": "é", "none": None})
    parse(content, "here")
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ModelError, match="here is damaged"):
            parse(bytes(flipped), "here")


def test_every_bit_of_run_json_counts(tmp_path: Path):
    RunFolder.create(tmp_path, "a", {"settings": {"rounds": 3, "augfl.rho": 0.7}}).finish("failed")
    path = tmp_path / "a" / "run.json"
    content, meta = path.read_bytes(), read_settled(tmp_path / "a")
    for bit in range(0, 8 * len(content), 5):  # each bit of a byte has its turn
        path.write_bytes(content)
        flip(path, bit)
        with pytest.raises(RunError, match=f"{path} cannot be read as a run"):
            read_settled(tmp_path / "a")
    path.write_bytes(content)
    assert read_settled(tmp_path / "a") == meta


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of four rounds, and the same after three, each with its devices' memory."""
    from deploy.pretrain import pretrain_model
    from server_app.private.settings import PretrainSettings

    home = tmp_path_factory.mktemp("flips")
    private = home / "private"
    pretrain_model(private, {}, "cnn-wide", PretrainSettings(epochs=1))
    folders = home / "whole", home / "shorter"
    for folder, rounds in zip(folders, (4, 3), strict=True):
        resume(folder, print, private, rounds=rounds, resume=False)
    return folders


def resume(root: Path, notice: Callable[[str], None], private: Path, **more: Any) -> Path:
    from deploy.simulate import simulate
    from server_app.settings import ServerSettings

    server = ServerSettings(private_model=str(private), runs=root, cache=root.parent / "cache")
    config = {**SETTINGS, "method": "augfl", "resume": True, **more}
    return simulate(config, server, notice, memory=root / "devices")


@pytest.mark.parametrize(
    "name",
    [
        "run.json", "metrics.jsonl", "checkpoints/round-000003.safetensors",
        "checkpoints/round-000002.safetensors",
    ],
)  # fmt: skip
def test_a_flipped_bit_changes_no_result(name: str, runs: tuple[Path, Path], tmp_path: Path):
    whole, shorter = runs
    for bit in bits_of(shorter / "a" / name, FLIPS):
        shutil.copytree(shorter, tmp_path / str(bit))
        path = tmp_path / str(bit) / "a" / name
        flip(path, bit)
        told: list[str] = []
        if name == "run.json":
            with pytest.raises(RunError, match=str(path)):
                resume(tmp_path / str(bit), told.append, whole.parent / "private")
            continue
        run = resume(tmp_path / str(bit), told.append, whole.parent / "private")
        noticed = any(str(path) in line for line in told)
        model = "models/last.safetensors"
        assert (run / model).read_bytes() == (whole / "a" / model).read_bytes()
        lost = read_run(run).lost
        assert record(run) == [x for x in record(whole / "a") if x["round"] not in lost]
        assert noticed == bool(lost) or name == "checkpoints/round-000003.safetensors"
        back = "round 2" if name == "checkpoints/round-000003.safetensors" else "round 3"
        assert read_json(run / "run.json")["resumed_from"] == back


def test_lines_that_are_not_as_they_were_written_are_named(tmp_path: Path):
    folder = RunFolder.create(tmp_path, "a", {"method": "augfl", "settings": {}})
    for round in range(6):
        line = {"round": round, "train": {"loss": 1 / (round + 1)}}
        groups = {"model": Tensors.pack({"w": np.zeros(1, np.float32)})}
        folder.save_checkpoint(round, groups, {}, line, 3)
        folder.append(line)
    folder.finish("failed")
    path = tmp_path / "a" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("0.5", "0.4"), lines[4], lines[5]]))
    for _ in range(2):  # it is said again whenever the run goes on
        told: list[str] = []
        folder = RunFolder.reopen(tmp_path, "a")
        found = folder.load_checkpoint(told.append)
        assert found is not None
        kept = folder.mend_record(5, found[2]["line"], told.append)
        assert [line["round"] for line in kept] == [0, 4, 5]
        assert [json.loads(line) for line in path.read_text().splitlines()] == kept
        assert told == [
            f"{path}: the lines of rounds 1 to 3 are damaged or lost; the run goes on as it would "
            "have, and its record lacks them"
        ]
        folder.finish("failed")
    sections = {section.key: section for section in single.sections_of(read_run(tmp_path / "a"))}
    row = ["Lines of the record damaged or lost", "3", "1, 2, 3"]
    assert row in sections["events"].tables[0].rows


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    groups = {"model": Tensors.pack({"w": np.zeros(1, np.float32)})}
    for name in ("a", "b"):
        folder = RunFolder.create(tmp_path, name, {"settings": {}})
        folder.save_checkpoint(1, groups, {}, {"round": 1}, 3)
        folder.finish("failed")
    path = tmp_path / "a" / "checkpoints" / "round-000001.safetensors"
    shutil.copy(tmp_path / "b" / "checkpoints" / path.name, path)
    with pytest.raises(RunError, match=rf"{path} is a checkpoint of another run; take it away"):
        RunFolder.reopen(tmp_path, "a").load_checkpoint(print)


def test_a_checkpoint_under_another_rounds_name_is_damaged(tmp_path: Path):
    folder = RunFolder.create(tmp_path, "a", {"settings": {}})
    groups = {"model": Tensors.pack({"w": np.zeros(1, np.float32)})}
    folder.save_checkpoint(1, groups, {}, {"round": 1}, 3)
    path = tmp_path / "a" / "checkpoints" / "round-000001.safetensors"
    path.rename(path.with_name("round-000007.safetensors"))
    with pytest.raises(ModelError, match=r"round-000007\.safetensors is not the checkpoint of"):
        folder.load_checkpoint(print)
