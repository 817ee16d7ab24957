"""Python and Flower against what the fleet runs."""

from __future__ import annotations

import sys
from importlib import metadata

from deploy.doctor.finding import Finding, error, ok

PYTHON = (3, 11)


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Whether Flower runs on this Python."""
    text = ".".join(str(part) for part in version)
    if version >= PYTHON:
        return ok("python", f"Python {text}")
    return error(
        "python",
        f"Python {text}; Flower 1.39 needs {PYTHON[0]}.{PYTHON[1]} or newer",
        "make the virtual environment with a newer Python, or use the container image",
    )


def check_flower(expected: str) -> Finding:
    """Whether the installed Flower is of the server's minor release.

    Parameters
    ----------
    expected: the server's minor release, such as ``1.39``; a kit names it.
    """
    cure = f"pip install 'flwr=={expected}.*'"
    try:
        installed = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        return error("flower", "Flower is not installed in this environment", cure)
    if installed.split(".")[:2] == expected.split("."):
        return ok("flower", f"Flower {installed}, as the server's {expected}")
    return error(
        "flower",
        f"Flower {installed} here, {expected} on the server: they speak different protocols",
        cure,
    )
