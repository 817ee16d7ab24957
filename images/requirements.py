"""Write what the layers of the images install: a file a group, and the pins that all of them name.

    python3 requirements.py PROJECT FOLDER TORCH

PROJECT holds pyproject.toml and constraints.txt; FOLDER receives ``<group>.txt`` for the groups
``flower``, ``torch``, ``project`` (all other dependencies) and each extra of the project. TORCH:
requirements that replace the pinned torch and torchvision, ``base`` for those that the base image
has, or empty. Nothing but the standard library is there when it runs.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TORCH = ("torch", "torchvision")
# What torch brings along: these versions go with its own.
_COMPANIONS = re.compile(r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


def groups(project: dict[str, Any], torch: Sequence[str]) -> dict[str, list[str]]:
    """Group -> its requirements, from the table ``project`` of pyproject.toml."""
    own = project["dependencies"]
    pinned = [line for line in own if _name(line) in TORCH]
    return {
        "flower": [line for line in own if _name(line) == "flwr"],
        "torch": pinned if not torch else [line for line in torch if line != "base"],
        "project": [line for line in own if _name(line) not in ("flwr", *TORCH)],
        **project["optional-dependencies"],
    }


def pins(constraints: str, torch: Sequence[str]) -> list[str]:
    """The lines of constraints.txt, without those that another torch makes void."""
    lines = constraints.splitlines()
    return [line for line in lines if not _COMPANIONS.match(line)] if torch else lines


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def main(source: Path, folder: Path, torch: Sequence[str]) -> None:
    """Write all files."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    folder.mkdir(parents=True)
    held = pins((source / "constraints.txt").read_text(), torch)
    (folder / "constraints.txt").write_text("\n".join([*held, ""]))
    for name, lines in groups(project, torch).items():
        text = "\n".join(["--constraint constraints.txt", *lines, ""])
        (folder / f"{name}.txt").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split())
