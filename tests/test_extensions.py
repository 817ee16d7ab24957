"""An installed package adds a method, a model and a data set, without a change here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

METHOD = "server_app/methods/fedavg.py", "client_app/methods/fedavg.py", "common/methods/fedavg.py"
OTHERS = """
import numpy as np
from torch import nn

from common.data.own import DataSet


def linear(classes, channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, classes))


def noise():
    random = np.random.default_rng(0)
    labels = np.arange(400) % 4
    pixels = random.integers(0, 99, (400, 1, 6, 6)) + 50 * labels[:, None, None, None]
    return DataSet(tuple("abcd"), pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64))
"""
POINTS = """[augflower.methods]
averaging = extra.averaging
[augflower.models]
linear = extra.others:linear
[augflower.data]
noise = extra.others:noise
"""
RUN = [
    "simulate", "-s", "method=averaging", "-s", "model=linear", "-s", "data.name=noise",
    "-s", "data.image-size=6", "-s", "data.server-images=0", "-s", "data.pretrain-images=0",
    "-s", "data.sources=3", "-s", "data.targets=2", "-s", "rounds=2", "-s", "averaging.sgd.lr=0.2",
    "-s", "run-name=r",
]  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: a package, and beside it what it registers."""
    method = tmp_path / "extra" / "averaging"
    method.mkdir(parents=True)
    for source, part in zip(METHOD, ("server", "client", "contract"), strict=True):
        text = (
            (ROOT / source).read_text().replace("common.methods.fedavg", "extra.averaging.contract")
        )
        (method / f"{part}.py").write_text(text)
    (method / "__init__.py").touch()
    (tmp_path / "extra" / "__init__.py").touch()
    (tmp_path / "extra" / "others.py").write_text(OTHERS)
    facts = tmp_path / "extra-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(POINTS)
    return tmp_path


def play(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("AUGFLOWER_")}
    environment = plain | {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words], cwd=site, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_of_a_package_s_method_model_and_data(site: Path):
    done = play(site, *RUN)
    assert done.returncode == 0, done.stderr
    assert "round 2/2" in done.stdout
    assert "3/3 replies" in done.stdout
    assert "no effect" not in done.stdout


@pytest.mark.parametrize(
    ("what", "name"), [("methods", "averaging"), ("models", "linear"), ("data", "noise")]
)
def test_they_are_listed(site: Path, what: str, name: str):
    done = play(site, "list", what)
    assert name in [line.split()[0] for line in done.stdout.splitlines()], done.stderr


def test_a_package_that_is_broken_is_named(site: Path):
    (site / "extra" / "averaging" / "__init__.py").write_text("import nothing_of_that_name")
    done = play(site, "list", "methods")
    assert done.returncode == 1
    assert "'averaging' of extra (augflower.methods) cannot be loaded" in done.stderr
