"""The code of docs/add-a-method.md, taken off the page, put together and run as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def write_package(folder: Path) -> None:
    """The files, and beside them what pip would note of their entry points."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "fedavgm" / "__init__.py").touch()
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    facts = folder / f"{project['name']}-{project['version']}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (facts / "entry_points.txt").write_text("".join(points))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_package(tmp_path)
    return tmp_path


def play(package: Path, *words: str, cwd: Path | None = None) -> str:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("AUGFLOWER_")}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd or package, text=True, capture_output=True, check=False,
        env=plain | {"PYTHONPATH": f"{ROOT}{os.pathsep}{package}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_code_is_found():
    assert list(FILES) == [
        "fedavgm/contract.py", "fedavgm/client.py", "fedavgm/server.py", "test_fedavgm.py",
        "pyproject.toml",
    ]  # fmt: skip
    assert PAGE.count("```") == 2 * len(FILES)


def test_the_commands_of_the_page(package: Path):
    commands = re.findall(r"^    (augflower|python -m pytest) (.*)$", PAGE, re.MULTILINE)
    said = []
    for program, words in commands:
        if "tests/" not in words:  # those are another test's
            module = "deploy.cli" if program == "augflower" else "pytest"
            said.append(play(package, "-m", module, *words.split()))
    tested, settings, run, report = said
    assert "2 passed" in tested
    assert "fedavgm.beta" in settings
    assert "round 3/3 · 6/6 replies" in run
    assert "wrote " in report


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_conforms(package: Path):
    [words] = re.findall(r"^    python -m pytest (tests/.* -k fedavgm)$", PAGE, re.MULTILINE)
    said = play(package, "-m", "pytest", "-p", "no:cacheprovider", *words.split(), cwd=ROOT)
    assert int(re.findall(r"(\d+) passed", said)[0]) > 5


def test_a_fleet_is_told_its_settings(package: Path):
    code = (
        "from pathlib import Path; from deploy.bundle import app_folder; "
        "print((app_folder(Path('app')) / 'pyproject.toml').read_text())"
    )
    config = tomllib.loads(play(package, "-c", code))["tool"]["flwr"]["app"]["config"]
    assert config["fedavgm"]["beta"] == 0.9
    assert config["fedavgm"]["sgd"]["lr"] == 0.05


def test_it_becomes_a_part_of_augflower(package: Path, project: Path):
    """By the table of the page, in a copy of the project."""
    moves = re.findall(r"^\| `([\w./]+)` \| `([\w./]+)` \|$", PAGE, re.MULTILINE)
    assert len(moves) == 4
    for old, new in moves:
        text = (package / old).read_text(encoding="utf-8")
        text = text.replace("from fedavgm.contract", "from common.methods.fedavgm")
        text = text.replace("from fedavgm.server", "from server_app.methods.fedavgm")
        (project / new).write_text(text, encoding="utf-8")
    plain = {k: v for k, v in os.environ.items() if not k.startswith("AUGFLOWER_")}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "simulate", "-s", "method=fedavgm", "-s", "rounds=2"],
        cwd=project, text=True, capture_output=True, check=False,
        env=plain | {"PYTHONPATH": str(project)},
    )  # fmt: skip
    assert "round 2/2 · 6/6 replies" in done.stdout, done.stdout + done.stderr
