"""A device's memory: durable, of one run, never half written, and from before a repeated round."""

from __future__ import annotations

import logging
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from client_app.device import open_device
from client_app.memory import Memory
from common.tensorfile import dump
from common.tensors import Tensors
from deploy.run_config import default_config
from server_app.app import read_settings


def context(state: RecordDict | None = None, **node: str) -> Context:
    return Context(7, 101, dict(node), RecordDict() if state is None else state, {}, 0)


def tensors(value: float, size: int = 4) -> dict[str, Tensors]:
    return {"kept": Tensors.pack({"x": np.full(size, value, np.float32)})}


def value(memory: Memory, before: int | None = None) -> float | None:
    found = memory.read("method", before)
    return None if found is None else float(found[0]["kept"].vector[0])


@pytest.fixture(params=["folder", "context"])
def anew(request: pytest.FixtureRequest, tmp_path: Path):
    """A function that opens the same memory again, as each message does."""
    state = RecordDict()
    folder = tmp_path / "run" if request.param == "folder" else None
    return lambda: Memory(context(state), folder)


def test_it_outlives_the_process_that_wrote_it(anew):
    assert value(anew()) is None
    anew().write("method", tensors(1.0), {"note": "größer"})
    assert value(anew()) == 1.0
    assert anew().read("method")[1] == {"note": "größer"}
    anew().write("method", tensors(2.0), {})
    assert value(anew()) == 2.0
    assert anew().read("other") is None


def test_a_repeated_round_begins_where_it_began_the_first_time(anew):
    assert value(anew(), before=1) is None
    for round in (1, 2, 2, 4):
        assert value(anew(), before=round) == {1: None, 2: 1.0, 4: 2.0}[round]
        anew().write("method", tensors(float(round)), {}, round)
    assert value(anew(), before=5) == 4.0
    assert value(anew(), before=4) == 2.0


def test_what_is_written_without_a_round_is_older_than_any(anew):
    anew().write("method", tensors(1.0), {})
    assert value(anew(), before=1) == 1.0
    anew().write("method", tensors(2.0), {}, 3)
    assert value(anew(), before=3) == 1.0, "the round may be played again"
    anew().write("method", tensors(3.0), {})
    assert value(anew(), before=1) == 3.0


def test_notes_are_those_that_were_written(anew):
    for round in (0, 1, 2):
        anew().write("method", tensors(1.0), {"note": round}, round)
        assert anew().read("method")[1] == {"note": round}
        found = anew().read("method", before=round + 1)
        assert found[1] == {"note": round}
    assert anew().read("method", before=2)[1] == {"note": 1}


def test_a_memory_from_before_rounds_were_noted_still_opens(tmp_path: Path):
    (tmp_path / "method.safetensors").write_bytes(dump(tensors(1.0), {"note": 1}))
    memory = Memory(context(), tmp_path)
    assert value(memory) == value(memory, before=1) == 1.0


def test_a_damaged_file_is_told_and_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    memory = Memory(context(), tmp_path)
    memory.write("method", tensors(1.0), {})
    path = tmp_path / "method.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        assert memory.read("method") is None
    assert "memory 'method' is damaged" in caplog.text


def test_another_run_of_the_same_name_begins_with_nothing(tmp_path: Path):
    memory = Memory(context(), tmp_path)
    memory.belong("one")
    memory.write("method", tensors(1.0), {})
    memory.belong("one")
    assert value(memory) == 1.0
    memory.belong("two")
    assert value(memory) is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_device_left_goes_when_it_introduces_itself(tmp_path: Path):
    memory = Memory(context(), tmp_path)
    memory.belong("one")
    memory.write("method", tensors(1.0), {})
    (tmp_path / ".fml-before.safetensors.0123abcd").touch()
    memory.belong("one")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "method.safetensors"}


def test_a_damaged_mark_counts_as_another_run(tmp_path: Path):
    memory = Memory(context(), tmp_path)
    memory.belong("one")
    memory.write("method", tensors(1.0), {})
    (tmp_path / "run").write_bytes(b"\xefne")
    memory.belong("one")
    assert value(memory) is None


def _write_for_ever(folder: Path) -> None:
    memory = Memory(context(), folder)
    number = value(memory) or 0.0
    while True:
        number += 1
        memory.write("method", tensors(number, 200_000), {"number": number}, int(number))


def test_it_is_never_half_written(tmp_path: Path):
    """A process that does nothing but write is killed twelve times."""
    last, dice = 0.0, np.random.default_rng(0)
    for _ in range(12):
        child = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=[tmp_path])
        child.start()
        while (value(Memory(context(), tmp_path)) or 0.0) <= last:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.02))
        child.kill()
        child.join()
        groups, notes = Memory(context(), tmp_path).read("method")  # type: ignore[misc]
        vector = groups["kept"].vector
        assert len(vector) == 200_000
        assert (vector == notes["number"]).all()
        assert notes["number"] > last
        last = notes["number"]


def test_clients_of_one_machine_may_share_a_state_folder(tmp_path: Path):
    settings, _, _ = read_settings(default_config() | {"run-name": "shared"})
    devices = [
        open_device(context(**{"clients": client, "state-folder": str(tmp_path)}), settings)
        for client in ("0", "3", "6-9")
    ]
    for number, device in enumerate(devices):
        device.memory.write("method", tensors(float(number)), {})
    assert [value(device.memory) for device in devices] == [0.0, 1.0, 2.0]
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [
        "client-0", "client-3", "client-6"
    ]  # fmt: skip
