"""The server's own settings: environment variables of the server, which no device ever sees.

``AUGFLOWER_PRIVATE_MODEL`` names the folder, file or model of the private pretrained model,
``AUGFLOWER_SERVER_DATA`` the server's own labelled images, ``AUGFLOWER_RUNS`` where runs are kept,
``AUGFLOWER_CACHE`` where features of the private model are kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import SettingsError

PREFIX = "AUGFLOWER_"
_KNOWN = {
    "PRIVATE_MODEL": "private_model",
    "SERVER_DATA": "server_data",
    "RUNS": "runs",
    "CACHE": "cache",
}
# Read by the data sets, on devices as well.
_SHARED = {"DATA"}


@dataclass(frozen=True)
class ServerSettings:
    """What only the server knows.

    Attributes
    ----------
    private_model: folder, checkpoint or name of the pretrained model; empty for none.
    server_data: folder of the server's own images D_s; empty takes them from the data set.
    runs: folder that holds a folder for each run.
    cache: folder for the private model's features.
    """

    private_model: str = ""
    server_data: str = ""
    runs: Path = Path("runs")
    cache: Path = Path("~/.cache/augflower")


def read_server_settings(environment: Mapping[str, str] = os.environ) -> ServerSettings:
    """The server's settings from its environment.

    Raises
    ------
    SettingsError: a variable begins with ``AUGFLOWER_`` and is not known.
    """
    values: dict[str, str] = {}
    for key, value in environment.items():
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or name in _SHARED:
            continue
        if name not in _KNOWN:
            raise SettingsError(
                f"unknown environment variable {key}; the server reads "
                + ", ".join(PREFIX + known for known in _KNOWN)
            )
        values[_KNOWN[name]] = value
    return ServerSettings(
        private_model=values.get("private_model", ""),
        server_data=values.get("server_data", ""),
        runs=Path(values.get("runs") or ServerSettings.runs).expanduser(),
        cache=Path(values.get("cache") or ServerSettings.cache).expanduser(),
    )
