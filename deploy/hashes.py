"""Hashes of all archives that pip would install, as a requirements file that pip checks.

python -m pip install --dry-run --ignore-installed --report - ... | python deploy/hashes.py

Needs nothing but Python, for it runs before anything is installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def requirements(report: Mapping[str, Any]) -> str:
    """One line ``name==version --hash=sha256:...`` for each archive of pip's installation report.

    Raises
    ------
    SystemExit: an archive has no SHA-256.
    """
    lines = []
    for item in report["install"]:
        if "dir_info" in item["download_info"]:
            continue  # the project itself
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        digest = item["download_info"]["archive_info"].get("hashes", {}).get("sha256")
        if not digest:
            sys.exit(f"{name} {version} comes without a SHA-256; fetch it from a package index")
        lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
    return "".join(sorted(lines, key=str.lower))


if __name__ == "__main__":
    print(requirements(json.load(sys.stdin)), end="")
