"""Seeds that depend on what they are for, and on nothing else."""

import hashlib
from dataclasses import fields, replace
from typing import TypeVar

Down = TypeVar("Down")


def seed_for(*parts: object) -> int:
    """A 63-bit seed from the run's seed, a round, a node: the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def for_client(down: Down, client: int) -> Down:
    """A ``Down`` with the client's own seed in the place of the run's.

    What is sent is the same for all clients of a round, if the method sends them the same, and
    travels as one object; each makes of the run's seed its own.
    """
    names = {field.name for field in fields(down)}  # type: ignore[arg-type]
    if not {"seed", "round"} <= names:
        return down
    seed = seed_for(down.seed, down.round, client)  # type: ignore[attr-defined]
    return replace(down, seed=seed)  # type: ignore[type-var]
