"""The rules of the house, and that they bite."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

import client_app.methods
import common.methods
import server_app.methods
from common import registry
from deploy.run_config import default_config, to_toml
from tests.conftest import ROOT, drop_the_allow_list


def test_every_contract_has_both_halves_and_a_test():
    contracts = set(registry.names(common.methods))
    assert contracts == set(registry.names(client_app.methods))
    assert contracts <= set(registry.names(server_app.methods))
    for name in registry.names(server_app.methods):
        assert (ROOT / f"tests/methods/test_{name}.py").exists(), f"tests/methods/test_{name}.py"


def device_files(root: Path) -> list[Path]:
    return [path for side in ("client_app", "common") for path in (root / side).rglob("*.py")]


def mentions_of_the_server(root: Path) -> list[Path]:
    """Files that name the server's half, or the commands, which import it."""
    named = re.compile(r"server_app|\bdeploy\b")
    return [path for path in device_files(root) if named.search(path.read_text("utf-8"))]


def test_device_code_never_mentions_the_server():
    assert len(device_files(ROOT)) > 20
    assert mentions_of_the_server(ROOT) == []


@pytest.mark.parametrize("name", ["server_app", "deploy.pretrain"])
def test_the_text_fence_catches_a_dynamic_import(tmp_path: Path, name: str):
    (tmp_path / "common").mkdir()
    (tmp_path / "common/sly.py").write_text(f'__import__("importlib").import_module("{name}")')
    assert len(mentions_of_the_server(tmp_path)) == 1


def bundled(root: Path) -> set[str]:
    with zipfile.ZipFile(BytesIO(build_fab_from_disk(root))) as bundle:
        return set(bundle.namelist())


def strangers(names: set[str]) -> set[str]:
    allowed = ("client_app/", "common/", ".info/")
    return {n for n in names if not n.startswith(allowed) and n != "pyproject.toml"}


def test_the_bundle_holds_the_device_side_alone():
    names = bundled(ROOT)
    assert "client_app/app.py" in names
    assert "common/methods/augfl.py" in names
    assert strangers(names) == set()


def test_the_bundle_test_catches_a_missing_allow_list(project: Path):
    drop_the_allow_list(project)
    assert any(name.startswith("server_app/private/") for name in strangers(bundled(project)))


def lint_imports(root: Path) -> str:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("client_app/meta.py", "import server_app.validation.gate", "a device never imports"),
        ("common/wire.py", "def f():\n    import server_app.private", "a device never imports"),
        ("server_app/clients/registry.py", "import client_app.device", "the server reaches"),
        ("client_app/methods/fedavg.py", "import client_app.methods.fedprox", "device halves"),
        ("server_app/methods/fedavg.py", "import server_app.methods.augfl", "server halves"),
        ("common/methods/fedavg.py", "import torch", "contracts are plain data"),
        ("server_app/methods/fedavg.py", "import flwr.app", "methods know nothing of Flower"),
        ("client_app/meta.py", "import deploy.pretrain", "commands are on top"),
        ("client_app/meta.py", "import deploy.pretrain", "a device never imports the server"),
        ("common/wire.py", "import deploy.demo", "commands are on top"),
        ("server_app/clients/registry.py", "import deploy.run_config", "commands are on top"),
        ("server_app/clients/registry.py", "import client_app.teachers.clip", "teachers are the"),
        ("common/models/zoo.py", "import client_app.teachers.clip", "teachers are the devices'"),
        ("server_app/aggregation/means.py", "import server_app.method", "half has floors"),
        ("server_app/private/seen.py", "import server_app.knowledge.settings", "half has floors"),
        ("client_app/methods/fml.py", "import open_clip", "methods reach CLIP through teachers"),
        ("server_app/methods/augfl.py", "import open_clip", "methods reach CLIP through teachers"),
    ],
)
def test_the_import_contracts_catch(project: Path, path: str, line: str, broken: str):
    with (project / path).open("a") as file:
        file.write(f"\n\n{line}\n")
    output = lint_imports(project)
    # Long names are wrapped in the list; the details repeat them under a line of dashes.
    flat = " ".join(output.split())
    assert " 0 broken" not in flat, output
    assert broken in flat.partition("Broken contracts")[2], output


def test_the_import_contracts_hold():
    assert "0 broken" in lint_imports(ROOT)


def test_run_config_in_pyproject_is_that_of_the_code():
    expected = to_toml(default_config())
    text = (ROOT / "pyproject.toml").read_text()
    start = text.index("[tool.flwr.app.config]")
    written = text[start : text.index("[tool.ruff]")]
    assert written.strip() == expected.strip(), "python -m deploy.run_config prints the tables"
