"""Shared by all tests: quiet torch, no stray environment, small runs in one process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from server_app.settings import ServerSettings

torch.set_num_threads(1)
# Shells start what runs in the background with SIGINT ignored, which all processes inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]

SMALL = {
    "rounds": 2,
    "evaluation.every": 1,
    "data.sources": 3,
    "data.targets": 4,
    "round.deadline": 1.0,
}


PARTS = {"lora": "+lora-2"}
"""What is trained of a model, for methods that cannot train all of it."""


def backbone(folder: Path, seed: int = 7) -> str:
    """A file of weights of cnn-tiny."""
    from common.models.weights import weights_bytes
    from common.task import Task

    path = folder / f"backbone-{seed}.safetensors"
    path.write_bytes(weights_bytes(Task("cnn-tiny", 10, 1, 8).build(seed=seed)))
    return str(path)


def needed(method: str, folder: Path) -> dict[str, str]:
    """Settings without which a method does not run."""
    if method not in PARTS:
        return {}
    return {"model": f"cnn-tiny{PARTS[method]}", "pretrained-weights": backbone(folder)}


@pytest.fixture(autouse=True)
def _no_stray_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AUGFLOWER_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    """What a command does with a signal in this process must not be inherited by later tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def small_run(tmp_path: Path) -> Callable[..., Path]:
    """Run a method on few clients of the digits; returns the run's folder."""
    from deploy.simulate import simulate

    def run(method: str, overrides: dict[str, Any] | None = None, **options: Any) -> Path:
        server = options.pop("server", own_server(tmp_path))
        config = {**SMALL, **needed(method, tmp_path), "method": method, **(overrides or {})}
        return simulate(config, server, options.pop("notice", lambda text: None), **options)

    return run


def own_server(folder: Path) -> ServerSettings:
    """The server's settings of a small run: a generator of digits that nobody has trained."""
    from common.models.preprocessing import Preprocessing
    from server_app.private.generator import Decoder, save_generator

    made = folder / "generator"
    if not made.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save_generator(made, Decoder(8, 1, 8, 2), Preprocessing(1, 8, (0.5,), (0.5,)))
    return ServerSettings(runs=folder, cache=folder / "cache", generator=str(made))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's own files, to be violated."""
    names = subprocess.run(
        ["git", "ls-files", "*.py", "pyproject.toml", ".gitignore"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in names:
        if (ROOT / name).exists():
            target = tmp_path / "project" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return tmp_path / "project"


def drop_the_allow_list(project: Path) -> None:
    """Take the list of what devices are sent out of a project's settings."""
    settings = project / "pyproject.toml"
    lines = settings.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("fab-include")]
    assert len(kept) == len(lines) - 1
    settings.write_text("".join(kept))
