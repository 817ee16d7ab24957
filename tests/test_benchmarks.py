"""The short benchmarks still run, and give figures that can be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import client_update, faults, server_step


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
