"""A whole run in one process: the same shells and the same wire, one node after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from client_app.app import app as client_app
from common.config import DataSettings
from deploy.run_config import default_config
from server_app.app import read_settings, run
from server_app.settings import ServerSettings
from server_app.transport.in_process import InProcessGrid, Interference


def simulate(
    overrides: Mapping[str, Any],
    server: ServerSettings,
    notice: Callable[[str], None],
    *,
    grid: InProcessGrid | None = None,
    interfere: Interference | None = None,
) -> Path:
    """Run with the defaults and ``overrides``; returns the folder of the run.

    Parameters
    ----------
    overrides: public settings by dotted name.
    grid: nodes of an earlier run, which keep their memory; new ones are made without it.
    """
    config = default_config() | dict(overrides)
    settings = read_settings(config)[0]
    nodes = node_configs(settings.data)
    config["round.nodes"] = len(nodes)
    if grid is None:
        grid = InProcessGrid(client_app, nodes, config, interfere=interfere)
    return run(grid, config, server, notice)


def node_configs(data: DataSettings) -> list[dict[str, Any]]:
    """One node for each source, and one that plays all targets."""
    nodes: list[dict[str, Any]] = [{"clients": str(number)} for number in range(data.sources)]
    if data.targets:
        nodes.append({"clients": f"{data.sources}-{data.sources + data.targets - 1}"})
    return nodes
