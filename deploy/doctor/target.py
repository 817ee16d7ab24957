"""Who is examined: a device or a server, as its kit describes it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from common.errors import FleetError
from deploy.provision.places import FLOWER, state_folder

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """The server, or a leaf as one, by the folder of its kit."""

    kit: Path
    names: list[str]
    fleet_port: int
    control_port: int
    state: Path
    flower: str = FLOWER
    run: dict[str, Any] = field(default_factory=dict)


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
    model: str = ""  # of the run: its name, or its number of parameters
    flower: str = FLOWER
    name: str = ""  # in the fleet's settings
    run: dict[str, Any] = field(default_factory=dict)  # settings of a run, as far as they are said
    leaf: Server | None = None  # what a leaf is to the nodes behind it


def read_kit(folder: Path) -> Device | Server:
    """The device or server of a kit, which may be installed or not.

    Raises
    ------
    FleetError: no kit in the folder, or a damaged one.
    """
    file = folder / "kit.toml"
    about = _toml(file)
    state = Path(state_folder(_entry(about, "name", str, file)))
    flower = _entry(about, "flower", str, file)
    if about["name"] == "server":
        return _server(folder, about)
    settings = _toml(folder / "node.toml")
    data, teachers = _path(settings, "data-folder"), _path(settings, "teachers")
    return Device(
        server=_entry(about, "superlink", str, file),
        ca=folder / "ca.crt",
        key=folder / "node.key",
        state=_path(settings, "state-folder") or state,
        data=data,
        settings=settings,
        teachers=teachers,
        flower=flower,
        name=about["name"],
        leaf=_server(folder, about) if "names" in about else None,
    )


def _server(folder: Path, about: dict[str, Any]) -> Server:
    file = folder / "kit.toml"
    return Server(
        kit=folder,
        names=[str(name) for name in _entry(about, "names", list, file)],
        fleet_port=_entry(about, "fleet-port", int, file),
        control_port=_entry(about, "control-port", int, file),
        state=Path(state_folder(_entry(about, "name", str, file))),
        flower=_entry(about, "flower", str, file),
    )


def _entry(about: dict[str, Any], key: str, kind: type[T], file: Path) -> T:
    value = about.get(key)
    if not isinstance(value, kind):
        what = f"has {key} = {value!r}" if key in about else f"lacks {key!r}"
        raise FleetError(f"{file} {what}: copy it from the kit again")
    return value


def _path(settings: dict[str, Any], key: str) -> Path | None:
    """A path of the node's settings; what is none is named when all settings are checked."""
    value = settings.get(key)
    return Path(value) if isinstance(value, str) and value else None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise FleetError(
            f"{path} cannot be read ({problem.strerror}): give the folder of a kit"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise FleetError(f"{path} is damaged ({problem}): copy it from the kit again") from None
