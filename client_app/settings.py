"""A node's own settings: they come from ``--node-config`` and never leave the device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from common.config import DataSettings, Settings, parse
from common.errors import SettingsError
from common.serving import FOLDER


class NodeSettings(Settings):
    """What ``flower-supernode --node-config`` may hold."""

    clients: str = Field(
        "", pattern=r"^(\d+(-\d+)?)?$", description="Clients played, such as '3' or '40-59'."
    )
    role: Literal["source", "target"] = Field(
        "source", description="Whether a device with its own images trains or only adapts."
    )
    data_folder: str = Field("", description="The data set, or this device's own labelled images.")
    state_folder: str = Field("", description="Durable memory; empty keeps it in the SuperNode.")
    own_model: str = Field(
        "", description="Architecture of the device's own model, for fml; empty takes the run's."
    )
    backbone: str = Field(
        "", description="What pretrained-weights is here, for models that are trained in part."
    )
    width: float = Field(
        0.0, ge=0, le=1, description="Share of the network to train, for raffm; 0: as it can hold."
    )
    serve: bool = Field(False, description="Keep the newest model for augflower serve.")
    teachers: str = Field("", description="TOML file of this device's own foundation models.")
    threads: int = Field(0, ge=0, le=1024, description="Threads of PyTorch; 0 leaves its choice.")
    leaf_socket: str = Field("", description="Set by augflower leaf.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where networks compute: auto, cpu, cuda or cuda:N.",
    )
    device_memory: float = Field(
        1.0, gt=0, le=1, description="Share of the accelerator's memory that this node may take."
    )
    partition_id: int = Field(-1, ge=-1, description="Set by Flower's simulation.")
    num_partitions: int = Field(0, ge=0, description="Set by Flower's simulation.")

    @property
    def serving(self) -> Path | None:
        """Where the newest model is kept for ``augflower serve``, if it is."""
        if not self.serve:
            return None
        if not self.state_folder:
            raise SettingsError("node-config serve=true needs a state-folder to keep the model in")
        return Path(self.state_folder).expanduser() / FOLDER

    @property
    def features(self) -> Path | None:
        """Where features of a frozen backbone are kept from run to run, if they are."""
        return Path(self.state_folder).expanduser() / "features" if self.state_folder else None

    @property
    def folder(self) -> Path | None:
        """The data folder, if there is one."""
        return Path(self.data_folder).expanduser() if self.data_folder else None


def read_node_config(config: Mapping[str, Any]) -> NodeSettings:
    """Validate a node's configuration.

    Raises
    ------
    SettingsError: a key is unknown, of the wrong type or out of bounds.
    """
    values = dict(config)
    if isinstance(values.get("clients"), int):  # clients=3 needs no quotes
        values["clients"] = str(values["clients"])
    return parse(NodeSettings, values, "node-config ")


def played_clients(node: NodeSettings, data: DataSettings) -> list[int]:
    """Numbers of the clients that a node plays: sources come first, then targets.

    Flower's simulation numbers its nodes: the first play one source each, and the others share
    the targets.

    Raises
    ------
    SettingsError: no client is named, or one that does not exist.
    """
    total = data.sources + data.targets
    if node.clients:
        first, last = (re.split("-", node.clients) * 2)[:2]
        chosen = list(range(int(first), int(last) + 1))
    elif node.partition_id >= 0:
        chosen = _simulated(node.partition_id, node.num_partitions, data)
    else:
        raise SettingsError(
            "node-config names no client: give --node-config 'clients=\"0\"', or "
            "data-folder with data.name='folder' for this device's own images"
        )
    if not chosen or chosen[-1] >= total:
        raise SettingsError(
            f"node-config clients={node.clients!r}: the run has clients 0 to {total - 1} "
            f"({data.sources} sources, then {data.targets} targets)"
        )
    if chosen[0] < data.sources and len(chosen) > 1:
        raise SettingsError(
            f"node-config clients={node.clients!r}: a node that trains plays one client; "
            f"only targets ({data.sources} to {total - 1}) may share a node"
        )
    return chosen


def _simulated(partition: int, partitions: int, data: DataSettings) -> list[int]:
    if partition < data.sources:
        return [partition]
    others = partitions - data.sources
    targets = range(data.sources, data.sources + data.targets)
    return list(targets[partition - data.sources :: others])
