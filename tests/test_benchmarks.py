"""The short benchmarks still run, and give figures that can be right."""

from __future__ import annotations

import re

import pytest

from benchmarks import client_update, server_step


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
