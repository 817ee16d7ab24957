"""The short benchmarks still run, and give figures that can be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import client_update, faults, raffm, server_step


def ratios(text: str) -> list[float]:
    return [float(middle) for middle in re.findall(r"\| (\d+\.\d\d) \(", text)]


def test_client_update(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(client_update, "TURNS", 3)
    monkeypatch.setattr(client_update, "CASES", [("cnn-small", 28, 1)])
    client_update.main()
    central, forward = ratios(capsys.readouterr().out)
    assert 0.5 < central < 20
    assert 0.5 < forward < 20


def test_server_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(server_step, "CLIENTS", 3)
    monkeypatch.setattr(server_step, "TURNS", 1)
    server_step.main()
    text = capsys.readouterr().out
    plain, augfl, flower = ratios(text)
    assert plain == 1
    assert augfl > 0.5
    assert flower > 0.5
    assert "4,841,640 bytes a client" in text


def test_faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The liar lies, and only where it is told to; one that leaves is missed."""
    monkeypatch.setattr(faults, "ROUNDS", 2)
    (tmp_path / "runs").mkdir()
    lie = "1e6 times in round 1"
    for method in faults.METHODS:
        table = faults.lies(tmp_path / "runs", [method], ["none", lie], 1).splitlines()[2:]
        assert [row.split("|")[4:6] for row in table] == [[" 0.0 ", " 0.0 "], [" 0.0 ", " 1.0 "]]
    _, record, _ = faults.play(tmp_path / "runs", "fedavg", 0, faults.leaver(1))
    assert [line["replies"] for line in record[1:]] == [10, 9]


def test_raffm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Bytes are those of the slices, and each arm is served at the widths that it has."""
    small = {"data.name": "digits", "data.image-size": 8, "data.targets": 3}
    monkeypatch.setattr(raffm, "DATA", {**raffm.DATA, **small})
    arms = ["all train the whole", "all train a quarter", "the two large devices alone",
            "own widths, by salience"]  # fmt: skip
    table = raffm.table(tmp_path, arms, "cnn-tiny", 1, 1).splitlines()[2:]
    whole, quarter, large, own = ([c.strip() for c in row.split("|")[2:-1]] for row in table)
    assert quarter[:2] == ["-", "-"]
    assert min(float(each) for row in (whole, large, own) for each in row[:3]) > 0
    # Parameters of cnn-tiny for 8 pixels and at half and a quarter of its width.
    sizes = [9 * a + a + 9 * a * b + b + 40 * b + 10 for a, b in ((16, 32), (8, 16), (4, 8))]
    runs = [raffm.measured(tmp_path, arm, "cnn-tiny", 1, 0) for arm in arms]
    up = [run["curve"][-1][0] for run in runs]
    assert up == [40 * sizes[0], 40 * sizes[2], 8 * sizes[0],
                  8 * sizes[0] + 12 * sizes[1] + 20 * sizes[2]]  # fmt: skip


def test_costs_of_widths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raffm, "COUNTED", [("cnn-tiny", 1, 8)])
    whole, half, quarter = raffm.costs().splitlines()[2:]
    assert "| 1 | 6,090 |" in whole
    assert "| 0.5 | 1,898 |" in half
    assert "| 0.25 | 666 |" in quarter
