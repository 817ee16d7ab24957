"""The clients that devices play against those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_app.settings import played_clients, read_node_config
from common.config import DataSettings, parse
from common.errors import SettingsError
from deploy.doctor.finding import Finding, error, ok, skipped, warning

CHECK = "clients"
_CURE = "correct clients in fleet.yaml and provision again, or the run's data.sources and .targets"


def check_clients(settings: Mapping[str, Any], run: Mapping[str, Any]) -> Finding:
    """Whether a run has the clients that a device plays.

    Parameters
    ----------
    settings: of the device.
    run: settings of the run by dotted name; others have their defaults. Empty if nobody said.

    Raises
    ------
    SettingsError: a setting of the run's data is unknown or has no valid value.
    """
    if not run:
        return skipped(CHECK, "the run is not known here; -s data.sources=N says what it has")
    data = _data(run)
    try:
        node = read_node_config(settings)
        if data.name == "folder":
            return _own(bool(node.data_folder))
        played = played_clients(node, data)
    except SettingsError as problem:
        return error(CHECK, str(problem), _CURE)
    role = "trains" if played[0] < data.sources else "only evaluates"
    total = data.sources + data.targets
    return ok(CHECK, f"{node.clients} of the run's 0 to {total - 1}: it {role}")


def check_fleet(nodes: Path, run: Mapping[str, Any]) -> list[Finding]:
    """Whether the devices of a fleet play the clients of a run.

    Parameters
    ----------
    nodes: the list of devices in the server's kit.
    run: as for ``check_clients``.

    Raises
    ------
    SettingsError: the list, or a setting of the run's data, is none.
    """
    # Imported late: devices have no server's half.
    from server_app.clients.bindings import misfits, read_bindings

    if not run:
        return [skipped(CHECK, "the run is not known here; -s data.sources=N says what it has")]
    data = _data(run)
    total = 0 if data.name == "folder" else data.sources + data.targets
    found = misfits(read_bindings(nodes), data.sources, total)
    if not found:
        return [ok(CHECK, "those of the devices are those of the run")]
    return [warning(CHECK, line, _CURE) for line in found]


def _own(has_images: bool) -> Finding:
    if has_images:
        return ok(CHECK, "its own images")
    return error(
        CHECK, "the run is on devices' own images, and this one has none", "set data-folder"
    )


def _data(run: Mapping[str, Any]) -> DataSettings:
    given = {key.removeprefix("data."): v for key, v in run.items() if key.startswith("data.")}
    return parse(DataSettings, given, "data.")
