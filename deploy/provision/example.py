"""A ``fleet.yaml`` to begin with."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from common.errors import FleetError
from common.files import write_atomic


def write_example(path: Path) -> None:
    """Write the example.

    Raises
    ------
    FleetError: there is such a file already.
    """
    if path.exists():
        raise FleetError(f"{path} is there already and stays as it is; move it away for an example")
    text = files("deploy.provision.templates").joinpath("fleet.yaml").read_bytes()
    write_atomic(path, text)
