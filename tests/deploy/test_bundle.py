"""What an installed AugFlower sends to devices is what a checkout sends."""

from __future__ import annotations

import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from deploy import bundle


def packed(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(build_fab_from_disk(folder))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_checkout_is_the_folder(tmp_path: Path):
    assert bundle.app_folder(tmp_path) == bundle.ROOT
    assert list(tmp_path.iterdir()) == []


def test_an_installation_makes_the_same_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    for package in ("client_app", "common", "server_app"):
        (installed / package).symlink_to(bundle.ROOT / package)
    monkeypatch.setattr(bundle, "ROOT", installed)
    made = packed(bundle.app_folder(tmp_path / "made"))
    monkeypatch.undo()
    own = packed(bundle.app_folder(tmp_path))
    project, mine = (tomllib.loads(b.pop("pyproject.toml").decode()) for b in (made, own))
    assert project["tool"]["flwr"]["app"]["config"] == mine["tool"]["flwr"]["app"]["config"]
    assert project["project"]["name"] == mine["project"]["name"]
    code = {name for name in own if name.endswith(".py")}
    assert len(code) > 30
    assert {name: made.get(name) for name in code} == {name: own[name] for name in code}
    assert not any(name.startswith("server_app") for name in made)
