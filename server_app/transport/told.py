"""What a leaf tells of the replies of its devices, in the place of replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Partial:
    """What a leaf has added up.

    Attributes
    ----------
    leaf: its name.
    parts: the sums, as ``Replies.parts`` gives them.
    count: replies that are in them.
    """

    leaf: str
    parts: Mapping[str, NDArray[Any]]
    count: int


@dataclass(frozen=True)
class Counted:
    """A reply that is in a leaf's sum.

    Attributes
    ----------
    notes: its fields that are no tensors, as ``wire.parts`` gives them.
    tensors: names of its fields that are.
    sizes, compared: as in an ``Offer``.
    found: what the method has found in it, by part.
    doubtful: whether a size of it was unusual.
    seconds: from the leaf's message to the reply.
    bytes: of the arrays in the reply.
    """

    partial: Partial
    notes: Mapping[str, Any]
    tensors: tuple[str, ...]
    sizes: dict[str, float]
    compared: dict[str, float]
    found: dict[str, list[float]]
    doubtful: bool
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Refused:
    """A reply that a leaf's gate has rejected; see ``validation.errors.Rejected``."""

    field: str
    reason: str
    excessive: bool


@dataclass(frozen=True)
class Missing:
    """There is no reply.

    Attributes
    ----------
    late: whether the device is still at work.
    """

    reason: str
    late: bool


Told = Counted | Refused | Missing
