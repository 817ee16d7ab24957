"""``fleet.json``: who is admitted and who no longer is; the memory between two provisionings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from common.config import Settings
from common.errors import FleetError
from deploy.provision.settings import FleetNode, ServerSettings

FILE = "fleet.json"


class Admitted(Settings):
    """A node that may take part."""

    settings: FleetNode
    public_key: str  # OpenSSH line
    since: str  # ISO time


class Revoked(Settings):
    """A key that must never be let in again."""

    name: str
    public_key: str  # OpenSSH line
    since: str  # ISO time
    reason: Literal["revoked", "renewed"]


class Registry(Settings):
    """Everything about a fleet that is neither a key nor derived from the rest."""

    version: Literal[1]
    name: str
    server: ServerSettings
    nodes: dict[str, Admitted] = Field(default_factory=dict)
    revoked: list[Revoked] = Field(default_factory=list)

    def gone(self, name: str) -> Revoked | None:
        """The record of a node that was revoked for good, if it was."""
        records = (r for r in self.revoked if r.name == name and r.reason == "revoked")
        return next(records, None)

    def text(self) -> bytes:
        """As JSON."""
        return self.model_dump_json(by_alias=True, exclude_unset=True, indent=2).encode() + b"\n"


def read_registry(folder: Path) -> Registry:
    """The registry of a provisioned folder.

    Raises
    ------
    FleetError: the folder was not provisioned, or its registry is damaged.
    """
    path = folder / FILE
    try:
        return Registry.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise FleetError(
            f"{folder} holds no fleet: make one with `augflower provision fleet.yaml`"
        ) from None
    except OSError as error:
        raise FleetError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FleetError(
            f"{path} is damaged at {place or 'its start'} ({first['msg']}): restore it from a copy"
        ) from None
