"""Hashes of what is installed: written from pip's report, and an altered archive is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy import hashes

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
OWN = {"metadata": {"name": "augflower", "version": "1"}, "download_info": {"dir_info": {}}}


def wheel(folder: Path, content: str) -> None:
    """A package ``tiny`` 1.0 of one module."""
    about = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny.py", content)
        archive.writestr("tiny-1.0.dist-info/METADATA", about)
        archive.writestr("tiny-1.0.dist-info/WHEEL", kind)
        archive.writestr("tiny-1.0.dist-info/RECORD", "")


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PIP, *arguments], check=False, capture_output=True, text=True)


def test_an_altered_archive_is_refused(tmp_path: Path):
    index = ["--no-index", "--find-links", str(tmp_path)]
    wheel(tmp_path, "number = 1\n")
    report = pip("install", "--quiet", "--dry-run", "--report", "-", *index, "tiny")
    assert report.returncode == 0, report.stderr
    listed = tmp_path / "hashes.txt"
    found = json.loads(report.stdout)
    found["install"].append(OWN)
    listed.write_text(hashes.requirements(found))
    install = ["install", *index, "--require-hashes", "--requirement", str(listed)]
    assert pip(*install, "--target", str(tmp_path / "one")).returncode == 0
    assert (tmp_path / "one" / "tiny.py").read_text() == "number = 1\n"
    wheel(tmp_path, "number = 2\n")
    refused = pip(*install, "--target", str(tmp_path / "two"))
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "two").exists()


def test_an_archive_without_a_hash_is_named():
    item = {"metadata": {"name": "tiny", "version": "1.0"}, "download_info": {"archive_info": {}}}
    with pytest.raises(SystemExit, match=r"tiny 1\.0 comes without a SHA-256"):
        hashes.requirements({"install": [OWN, item]})
