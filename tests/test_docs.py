"""What documents name is there, and what they show of code runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import server_app.methods
from common import registry
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("samples/*.md")])
FOLDERS = "augflower|benchmarks|client_app|common|deploy|docs|fuzz|images|server_app|tests"
PACKAGES = ("augflower", "client_app", "common", "deploy", "server_app")
TO_COME = {f"{side}/methods/fedavgm.py" for side in ("common", "client_app", "server_app", "tests")}
TO_COME |= {"tests/methods/test_fedavgm.py"}  # the tutorial's


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    near = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in near if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_are_named_are_there(page: Path):
    words = page.read_text(encoding="utf-8")
    files = set(re.findall(rf"(?<![\w/])(?:{FOLDERS})/[\w/]+\.(?:py|md|toml|yml)\b", words))
    modules = re.findall(r"python -m ((?:benchmarks|deploy|fuzz|tests)\.\w+)", words)
    files |= {f"{module.replace('.', '/')}.py" for module in modules}
    known = {file for file in files if (ROOT / file).exists()} | TO_COME
    assert files - known - {"server_app/methods/m.py", "client_app/methods/m.py"} == set()


def test_folders_of_the_picture_are_all_there_are():
    named = set(re.findall(r"^\| `(server_app/\w+)/`", text("docs/architecture.md"), re.MULTILINE))
    there = {f"server_app/{p.parent.name}" for p in ROOT.glob("server_app/*/__init__.py")}
    assert named == there
    for place in re.findall(r"<br/>(\w+/\w+)[\w/]*\.?", text("docs/architecture.md")):
        assert (ROOT / place).exists() or (ROOT / f"{place}.py").exists(), place


def test_the_glossary_is_sorted():
    words = re.findall(r"^\| ([^|]+) \|", text("docs/glossary.md"), re.MULTILINE)[2:]
    assert 20 < len(words) <= 26
    assert words == sorted(words, key=str.lower)


def test_every_method_is_named():
    table = text("README.md").partition("## Methods")[2].partition("\n## ")[0]
    for name in registry.names(server_app.methods):
        assert f"`{name}`" in table
        assert re.search(rf"^\| .*`{name}`.* \|", text("docs/methods.md"), re.MULTILINE), name


def test_packages_say_that_they_are_typed():
    assert all((ROOT / package / "py.typed").exists() for package in PACKAGES)
    assert '"py.typed"' in text("pyproject.toml").partition("package-data]")[2].partition("\n\n")[0]


def test_python_that_reads_a_record(small_run, tmp_path: Path):
    small_run("fedavg", {"run-name": "A"})
    [code] = re.findall(r"```python\n(.*?)```", text("docs/reading.md"), re.DOTALL)
    (tmp_path / "runs").symlink_to(tmp_path)
    lines = [f"print({line.partition('  #')[0]})" if " = " not in line and "import" not in line
             else line for line in code.splitlines() if line]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, text=True, check=False,
        capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "accuracy_before" in done.stdout
    assert "'data.name': 'digits'" in done.stdout


def test_the_reference_is_made(tmp_path: Path):
    """As ``make docs`` does, of one package."""
    [command] = re.findall(r"-m (pdoc .*)", text("Makefile"))
    words = command.replace("site/api", str(tmp_path / "api")).split()
    assert set(words[-5:]) == set(PACKAGES)
    done = subprocess.run(
        [sys.executable, "-m", *words[:-5], "common"], cwd=ROOT, text=True, check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Too much for any loss" in (tmp_path / "api/common/contract.html").read_text()
