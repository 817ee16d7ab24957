"""What a client that comes after a run is sent, in a file: it makes a model of its own of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from common.errors import ModelError, WireError
from common.files import write_atomic
from common.modelfile import Card, read_card
from common.tensorfile import dump, parse
from common.wire import from_parts, parts

Contract = TypeVar("Contract")

NEWCOMER = "newcomer.safetensors"
"""Its name in the folder of a run whose clients have models of their own."""


def save_newcomer(path: Path, down: object, card: Card) -> None:
    """Write a method's ``Down`` with the card of its run, atomically."""
    groups, plain = parts(down)
    write_atomic(path, dump(groups, {**asdict(card), "down": plain}))


def load_newcomer(path: Path, kind: type[Contract]) -> tuple[Contract, Card]:
    """Read what ``save_newcomer`` wrote.

    Raises
    ------
    ModelError: it is damaged, or is of another method or release.
    """
    groups, notes = parse(path.read_bytes(), str(path))
    try:
        return from_parts(kind, groups, notes.pop("down")), read_card(notes, path)
    except (KeyError, WireError) as error:
        raise ModelError(
            f"{path} is not what this release of AugFlower sends new clients: {error}; use the "
            "release that made the run"
        ) from error
