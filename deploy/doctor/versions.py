"""Python, Flower and AugFlower's own packages against what the fleet runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from deploy.doctor.finding import Finding, error, ok

PYTHON = (3, 11)
HOME = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "client_app", "deploy", "server_app", "augflower")


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
    remedy = f"pip install 'flwr=={expected}.*'"
    try:
        installed = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        return error("flower", "Flower is not installed in this environment", remedy)
    if installed.split(".")[:2] == expected.split("."):
        return ok("flower", f"Flower {installed}, as the server's {expected}")
    return error(
        "flower",
        f"Flower {installed} here, {expected} on the server: they speak different protocols",
        remedy,
    )


def check_packages(path: Sequence[str] | None = None, home: Path = HOME) -> Finding:
    """Whether AugFlower's packages are those that a program here imports by their names.

    They have everyday names, such as ``common``, and lie in one folder. Another package of that
    name would be taken in place of one of them if it is earlier on the search path, and would be
    mixed with it if it was installed into the same folder.

    Parameters
    ----------
    path: folders in the order in which Python searches them; ``sys.path`` without it.
    home: the folder of AugFlower's packages.
    """
    remedy = "install AugFlower into an environment of its own, or uninstall that package"
    owners = metadata.packages_distributions()
    for name in PACKAGES:
        spec = PathFinder.find_spec(name, path)
        folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
        place = folders[0].resolve() if folders else spec and spec.origin
        if place and place != home / name:
            cause = f"Python takes {name!r} from {place}, not from {home / name}: another package"
            return error("packages", f"{cause} has the same name", remedy)
        for owner in set(owners.get(name, ())) - {"augflower"}:
            if Path(str(metadata.distribution(owner).locate_file(name))).resolve() == home / name:
                cause = f"the package {owner} has put its own {name!r} into {home}, too"
                return error("packages", cause, remedy)
    return ok("packages", f"{', '.join(PACKAGES)} are those in {home}")
