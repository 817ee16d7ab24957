"""A whole run on one machine: the same shells and the same wire, its nodes on all cores."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client_app.app import app as client_app
from client_app.device import forget
from common.config import DataSettings
from common.data.load import load
from common.data.plan import plan
from common.errors import SettingsError
from deploy.client_folders import folder_nodes, folder_settings
from deploy.research.effect import without_effect
from deploy.run_config import default_config
from deploy.signals import terminable
from server_app.app import read_settings, run
from server_app.monitoring.status import Status
from server_app.settings import ServerSettings
from server_app.transport.in_process import InProcessGrid, Interference
from server_app.transport.processes import ProcessesGrid

DEVICES = "devices"
"""Where simulated devices keep their memory, in the folder of a run."""


def simulate(
    overrides: Mapping[str, Any],
    server: ServerSettings,
    notice: Callable[[str], None],
    *,
    clients: Path | None = None,
    grid: InProcessGrid | None = None,
    memory: Path | None = None,
    interfere: Interference | None = None,
    status: Status | None = None,
    processes: int = 1,
    device: str = "cpu",
) -> Path:
    """Run with the defaults and ``overrides``; returns the folder of the run.

    Parameters
    ----------
    overrides: public settings by dotted name.
    clients: folder with the images of each client (``deploy.client_folders``); without it, clients
        are assigned a data set by name.
    grid: nodes of an earlier run, which keep their memory; new ones are made without it.
    memory: folder where new nodes keep theirs, so that another process can go on with the run;
        without it, their memory ends with this process.
    interfere: lets tests lose or change replies.
    status: is told what the run is doing.
    processes: that new nodes share, as many as there are nodes at most; the result is the same.
    device: that new nodes compute on, as in a node's config; processes share its memory evenly.

    SIGTERM ends the program after the run is noted as stopped.

    Raises
    ------
    SettingsError: a setting is wrong, or asks for clients' own images without a folder of them.
    DataError: the folder's images cannot be used.
    """
    chosen = dict(overrides) if clients is None else folder_settings(clients, overrides)
    config = default_config() | chosen
    settings = read_settings(config)[0]
    for line in without_effect(chosen):
        notice(line)
    nodes = node_configs(settings.data)
    if clients is not None:
        nodes = folder_nodes(clients, settings.data.targets, memory)
        notice(_of_folder(clients, settings.data))
    elif memory is not None:
        nodes = [node | {"state-folder": str(memory)} for node in nodes]
    config["round.nodes"] = len(nodes)
    if grid is None:
        if settings.data.name == "folder" and clients is None:
            raise SettingsError(
                "data.name=folder: each client brings its own images; give --clients FOLDER, with "
                "one subfolder a client, or run it on a fleet (augflower provision, node, run)"
            )
        shared = {"device": device, "device-memory": 1 / max(1, min(processes, len(nodes)))}
        nodes = [node | shared for node in nodes]
        with (
            _grid(nodes, config, settings.data, processes, interfere, notice) as made,
            terminable(),
        ):
            return run(made, config, server, notice, status)
    with terminable():
        return run(grid, config, server, notice, status)


@contextlib.contextmanager
def _grid(
    nodes: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    data: DataSettings,
    processes: int,
    interfere: Interference | None,
    notice: Callable[[str], None],
) -> Iterator[InProcessGrid]:
    """New nodes, in as many processes as are wanted and possible."""
    processes = min(processes, len(nodes))
    if processes > 1 and (reason := _alone()):
        notice(f"all clients are in one process: {reason}")
        processes = 1
    if processes == 1:
        yield InProcessGrid(client_app, nodes, config, interfere=interfere)
        return
    if data.name != "folder":  # what is read before the fork is in memory once
        images = load(data.name, image_size=data.image_size, channels=data.channels)
        images.pixels(np.zeros(1, np.int64))
        plan(images.labels, data, images.owners)
    grid = ProcessesGrid(
        client_app, nodes, config, processes, interfere=interfere, forget=forget, notice=notice
    )
    try:
        yield grid
    finally:
        grid.close()


def _alone() -> str:
    """Why this process cannot be forked; empty where it can."""
    if sys.platform != "linux":
        return f"{sys.platform} has no fork that PyTorch can be trusted in"
    if torch.cuda.is_initialized():
        return "this program has used CUDA, which its forks then cannot"
    return ""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _of_folder(clients: Path, data: DataSettings) -> str:
    colour = "grey" if data.channels == 1 else "colour"
    return (
        f"{clients}: {data.sources} clients train, {data.targets} evaluate; "
        f"{len(data.classes)} classes; images are brought to {data.image_size} x "
        f"{data.image_size} pixels, {colour}"
    )


def node_configs(data: DataSettings, target_nodes: int = 1) -> list[dict[str, Any]]:
    """One node for each source, and ``target_nodes`` that share the targets evenly."""
    nodes: list[dict[str, Any]] = [{"clients": str(number)} for number in range(data.sources)]
    targets = range(data.sources, data.sources + data.targets)
    for node in range(target_nodes if targets else 0):
        first, last = (len(targets) * (node + k) // target_nodes for k in (0, 1))
        nodes.append({"clients": f"{targets[first]}-{targets[last - 1]}"})
    return nodes
