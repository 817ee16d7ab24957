"""Shared by all tests: quiet torch, no stray environment, small runs in one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from server_app.settings import ServerSettings

torch.set_num_threads(1)

SMALL = {
    "rounds": 2,
    "evaluation.every": 1,
    "data.sources": 3,
    "data.targets": 4,
    "round.deadline": 1.0,
}


@pytest.fixture(autouse=True)
def _no_stray_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AUGFLOWER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def small_run(tmp_path: Path) -> Callable[..., Path]:
    """Run a method on few clients of the digits; returns the run's folder."""
    from deploy.simulate import simulate

    def run(method: str, overrides: dict[str, Any] | None = None, **options: Any) -> Path:
        server = options.pop("server", ServerSettings(runs=tmp_path, cache=tmp_path / "cache"))
        config = {**SMALL, "method": method, **(overrides or {})}
        return simulate(config, server, options.pop("notice", lambda text: None), **options)

    return run
