"""The folder that ``flwr run`` packs and sends to every device.

A checkout is such a folder. An installed AugFlower has no ``pyproject.toml`` beside its packages,
and that of a checkout lacks the settings of methods that other packages bring; one is written then,
with the public settings as they are in the code.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from common import extensions
from deploy.run_config import default_config, to_toml

ROOT = Path(__file__).resolve().parents[1]
_PROJECT = """[project]
name = "augflower"
version = "{version}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "augflower"
fab-include = ["client_app/**/*.py", "common/**/*.py"]

[tool.flwr.app.components]
serverapp = "server_app.app:app"
clientapp = "client_app.app:app"

"""


def app_folder(scratch: Path) -> Path:
    """The folder to submit.

    Parameters
    ----------
    scratch: where one is made if it must be.
    """
    if (ROOT / "pyproject.toml").is_file() and not extensions.added("methods"):
        return ROOT
    # Flower looks for the server's half before it packs, and by the list above packs none of it.
    for package in ("client_app", "common", "server_app"):
        shutil.copytree(
            ROOT / package,
            scratch / package,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
    text = _PROJECT.format(version=version("augflower")) + to_toml(default_config())
    (scratch / "pyproject.toml").write_text(text, encoding="utf-8")
    return scratch
