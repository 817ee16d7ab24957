"""The server's own settings: environment variables of the server, which no device ever sees.

``AUGFLOWER_PRIVATE_MODEL`` names the folder, file or model of the private pretrained model,
``AUGFLOWER_GENERATOR`` the folder or file of a generator of images,
``AUGFLOWER_SERVER_DATA`` the server's own labelled images, ``AUGFLOWER_RUNS`` where runs are kept,
``AUGFLOWER_CACHE`` where features of the private model are kept. ``AUGFLOWER_WATCH`` is the address
of the live page, ``AUGFLOWER_WATCH_TOKEN`` or ``AUGFLOWER_WATCH_TOKEN_FILE`` what opens it, and
``AUGFLOWER_CALLBACKS`` names who else is told of runs, such as ``tensorboard,mlflow``.
``AUGFLOWER_NODES`` names the list of devices that provisioning made, with what the operator has
said of each. ``AUGFLOWER_LEAF`` is the socket of a leaf, which asks devices on behalf of another
server and has no runs of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import SettingsError
from server_app.place import Place, read_place

PREFIX = "AUGFLOWER_"
_KNOWN = {
    "PRIVATE_MODEL": "private_model",
    "GENERATOR": "generator",
    "SERVER_DATA": "server_data",
    "RUNS": "runs",
    "CACHE": "cache",
    "WATCH": "watch",
    "WATCH_TOKEN": "watch_token",
    "WATCH_TOKEN_FILE": "watch_token_file",
    "CALLBACKS": "callbacks",
    "NODES": "nodes",
    "LEAF": "leaf",
}
# Read by the data sets, on devices as well.
_SHARED = {"DATA"}
_OTHERS = ("SUPERLINK_", "SUPEREXEC_")  # of processes that may have the same environment


@dataclass(frozen=True)
class ServerSettings:
    """What only the server knows.

    Attributes
    ----------
    private_model: folder, checkpoint or name of the pretrained model; empty for none.
    generator: folder or file of a generator of images; empty for none.
    server_data: folder of the server's own images D_s; empty takes them from the data set.
    runs: folder that holds a folder for each run.
    cache: folder for the private model's features.
    watch: where the live page is served; None serves none.
    callbacks: by name (``server_app.monitoring.callbacks``).
    nodes: list of the fleet's devices (``server_app.clients.bindings``); None believes them.
    leaf: socket where this process is asked on behalf of another server; None for a server.
    """

    private_model: str = ""
    generator: str = ""
    server_data: str = ""
    runs: Path = Path("runs")
    cache: Path = Path("~/.cache/augflower")
    watch: Place | None = None
    callbacks: tuple[str, ...] = ()
    nodes: Path | None = None
    leaf: Path | None = None


def read_server_settings(environment: Mapping[str, str] = os.environ) -> ServerSettings:
    """The server's settings from its environment.

    Raises
    ------
    SettingsError: a variable begins with ``AUGFLOWER_`` and is not known, or has no valid value.
    """
    values: dict[str, str] = {}
    for key, value in environment.items():
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or name in _SHARED or name.startswith(_OTHERS):
            continue
        if name not in _KNOWN:
            raise SettingsError(
                f"unknown environment variable {key}; the server reads "
                + ", ".join(PREFIX + known for known in _KNOWN)
            )
        values[_KNOWN[name]] = value
    return ServerSettings(
        private_model=values.get("private_model", ""),
        generator=values.get("generator", ""),
        server_data=values.get("server_data", ""),
        runs=Path(values.get("runs") or ServerSettings.runs).expanduser(),
        cache=Path(values.get("cache") or ServerSettings.cache).expanduser(),
        watch=read_place(
            values.get("watch", ""),
            values.get("watch_token", ""),
            values.get("watch_token_file", ""),
        ),
        callbacks=_names(values.get("callbacks", "")),
        nodes=Path(values["nodes"]).expanduser() if values.get("nodes") else None,
        leaf=Path(values["leaf"]) if values.get("leaf") else None,
    )


def _names(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
