"""Who is examined: a device or a server, as its kit describes it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import FleetError
from deploy.provision.places import FLOWER, state_folder


@dataclass(frozen=True)
class Device:
    """A node, and what a run will ask of it."""

    server: str  # address of the SuperLink's fleet port, host:port
    ca: Path | None = None  # PEM; None trusts the system's authorities
    key: Path | None = None  # OpenSSH private key
    insecure: bool = False
    state: Path = Path()
    data: Path | None = None  # its own labelled images
    settings: dict[str, Any] = field(default_factory=dict)  # what its ClientApp gets
    teachers: Path | None = None  # file of its foundation models
    parameters: int = 0  # of the client model
    flower: str = FLOWER


@dataclass(frozen=True)
class Server:
    """The server, by the folder of its kit."""

    kit: Path
    names: list[str]
    fleet_port: int
    control_port: int
    state: Path
    flower: str = FLOWER


def read_kit(folder: Path) -> Device | Server:
    """The device or server of a kit, which may be installed or not.

    Raises
    ------
    FleetError: no kit in the folder, or a damaged one.
    """
    about = _toml(folder / "kit.toml")
    try:
        state = Path(state_folder(about["name"]))
        if about["name"] == "server":
            return Server(
                kit=folder,
                names=about["names"],
                fleet_port=about["fleet-port"],
                control_port=about["control-port"],
                state=state,
                flower=about["flower"],
            )
        settings = _toml(folder / "node.toml")
        data, teachers = settings.get("data-folder"), settings.get("teachers")
        return Device(
            server=about["superlink"],
            ca=folder / "ca.crt",
            key=folder / "node.key",
            state=Path(settings.get("state-folder", state)),
            data=Path(data) if data else None,
            settings=settings,
            teachers=Path(teachers) if teachers else None,
            flower=about["flower"],
        )
    except KeyError as problem:
        raise FleetError(
            f"{folder / 'kit.toml'} lacks {problem}: copy it from the kit again"
        ) from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise FleetError(
            f"{path} cannot be read ({problem.strerror}): give the folder of a kit"
        ) from None
    except tomllib.TOMLDecodeError as problem:
        raise FleetError(f"{path} is damaged ({problem}): copy it from the kit again") from None
