"""`augflower simulate`, then `augflower resume`: as if it had never been interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from deploy.cli import app

SETTINGS = {
    "data.sources": 3, "data.targets": 2, "evaluation.every": 0, "augfl.lambda": 0,
}  # fmt: skip


@pytest.mark.parametrize("method", ["augfl", "fml"])
def test_a_resumed_simulation_is_bit_identical(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUGFLOWER_RUNS", str(tmp_path))
    play("simulate", method, "whole", 4)
    play("simulate", method, "parts", 2)
    told = CliRunner().invoke(app, ["resume", str(tmp_path / "parts"), "--rounds", "4"])
    assert told.exit_code == 0, told.output
    whole, parts = (
        load_file(tmp_path / name / "models" / "last.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)
    assert "restarted_duals" not in (tmp_path / "parts" / "metrics.jsonl").read_text()


def play(command: str, method: str, name: str, rounds: int) -> None:
    settings = SETTINGS | {"method": method, "run-name": name, "rounds": rounds}
    arguments = [part for key, value in settings.items() for part in ("-s", f"{key}={value}")]
    told = CliRunner().invoke(app, [command, *arguments])
    assert told.exit_code == 0, told.output
