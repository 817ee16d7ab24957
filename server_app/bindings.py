"""What the operator has said of each device: its role, its clients, how many images it may have.

It stands in the list of devices of the server's kit (``nodes.json``), which ``AUGFLOWER_NODES``
names. A device is known by the name under which its key was registered: the operator gives it, the
device cannot choose it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import SettingsError


class Binding(BaseModel):
    """Of one device."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["source", "target"]  # with images of its own
    clients: str = Field("", pattern=r"^(\d+(-\d+)?)?$")  # such as "40-59"; empty: none is said
    most_images: int = Field(0, ge=0)  # of its own, for which it may count; 0: none is said

    @property
    def numbers(self) -> list[int]:
        """The clients that it plays where a data set is dealt; empty if none is said."""
        if not self.clients:
            return []
        first, _, last = self.clients.partition("-")
        return list(range(int(first), int(last or first) + 1))


_BINDINGS = TypeAdapter(dict[str, Binding])


def read_bindings(path: Path | None) -> Mapping[str, Binding]:
    """Name of a device -> what is said of it; nothing without a list.

    Raises
    ------
    SettingsError: the list cannot be read, or is damaged.
    """
    if path is None:
        return {}
    try:
        return _BINDINGS.validate_json(json.dumps(json.loads(path.read_bytes())["bound"]))
    except OSError as error:
        reason = error.strerror
    except (KeyError, TypeError, ValidationError, ValueError) as error:
        reason = f"damaged or of another release ({str(error).splitlines()[0]})"
    raise SettingsError(
        f"AUGFLOWER_NODES={path} cannot be read: {reason}; provision the fleet again and bring the "
        "server's nodes.json here"
    )
