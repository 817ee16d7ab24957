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

    role: Literal["source", "target", "leaf"]  # with images of its own; a leaf has none
    leaf: str = ""  # behind which it stands; empty for the server itself
    clients: str = Field("", pattern=r"^(\d+(-\d+)?)?$")  # such as "40-59"; empty: none is said
    most_images: int = Field(0, ge=0)  # of its own, for which it may count; 0: none is said

    @property
    def numbers(self) -> list[int]:
        """The clients that it plays where a data set is partitioned; empty if none is said."""
        if not self.clients:
            return []
        first, _, last = self.clients.partition("-")
        return list(range(int(first), int(last or first) + 1))


def awaited(bindings: Mapping[str, Binding], sources: int, total: int) -> list[str]:
    """Names of the devices that can take part in a run, as far as the operator has said it.

    Parameters
    ----------
    sources, total: clients of the partition that train, and all of them; 0 where devices bring
        their own images.
    """
    return [name for name, bound in bindings.items() if not _unfit(bound, sources, total)]


def misfits(bindings: Mapping[str, Binding], sources: int, total: int) -> list[str]:
    """What of a list of devices does not go with a run's clients, in one sentence each."""
    found = []
    for name, bound in bindings.items():
        if total and bound.role != "leaf" and (reason := _unfit(bound, sources, total)):
            found.append(f"{name} cannot take part: {reason} (clients in fleet.yaml)")
    played = {number for bound in bindings.values() for number in bound.numbers}
    idle = sorted(set(range(total)) - played)
    # Devices whose clients nobody has said may play any that are left.
    devices = [bound for bound in bindings.values() if bound.role != "leaf"]
    if devices and idle and all(bound.clients for bound in devices):
        found.append(
            f"no device of the fleet plays {_some(idle)} of the run's clients 0 to {total - 1}; "
            "give clients in fleet.yaml, or lower data.sources and data.targets"
        )
    return found


def _unfit(bound: Binding, sources: int, total: int) -> str:
    """Why a device cannot take part in a run; empty where it can."""
    if bound.role == "leaf":
        return "it is a leaf, which has no images"
    if not total:
        return "it has no images of its own" if bound.clients else ""
    numbers = bound.numbers
    if numbers and numbers[-1] >= total:
        return f"it plays clients {bound.clients}, and the run has 0 to {total - 1}"
    if len(numbers) > 1 and numbers[0] < sources:
        return f"it plays clients {bound.clients}, and of the {sources} that train a device has one"
    return ""


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" * (len(numbers) > 8))


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
