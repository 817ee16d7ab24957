"""Checkpoints of a run: one file a round, the newest kept, a damaged one passed over."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import AugFlowerError, ModelError
from common.files import write_atomic
from common.tensorfile import dump, parse
from common.tensors import Tensors
from server_app.runs.nested import flatten, unflatten

Checkpoint = tuple[int, dict[str, Tensors], dict[str, Any]]
"""Round, tensors and notes, with the ``line`` of the record about that round."""

DAMAGED = ".damaged"
"""Ends the name of a checkpoint that was passed over."""

_NAME = re.compile(r"round-(\d{6})\.safetensors")


def save(
    folder: Path, round: int, groups: Mapping[str, Tensors], notes: Mapping[str, Any], keep: int
) -> None:
    """Write the checkpoint of a round, then drop all but the newest ``keep`` (0 keeps all)."""
    plain, arrays = flatten(notes)
    stored = {**groups, "notes": Tensors.pack(arrays)}
    write_atomic(folder / f"round-{round:06}.safetensors", dump(stored, plain))
    for old in _paths(folder)[:-keep] if keep else []:
        old.unlink()


def newest(folder: Path, notice: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint; nothing if there is none.

    Damaged ones that are newer get another name, so that they are neither read nor counted again.

    Parameters
    ----------
    notice: is told of each that is damaged.

    Raises
    ------
    AugFlowerError: all are damaged; says what is wrong with the newest.
    """
    damaged: dict[Path, AugFlowerError] = {}
    for path in reversed(_paths(folder)):
        try:
            found = _read(path)
        except AugFlowerError as error:
            damaged[path] = error
            continue
        for bad, reason in damaged.items():
            notice(f"{reason}; it is kept as {bad.name}{DAMAGED}, and {path.name} is gone back to")
            bad.rename(bad.with_name(bad.name + DAMAGED))
        return found
    if damaged:
        raise next(iter(damaged.values()))
    return None


def _read(path: Path) -> Checkpoint:
    match = _NAME.fullmatch(path.name)
    assert match
    try:
        groups, plain = parse(path.read_bytes(), str(path))
        notes = unflatten(plain, groups.pop("notes").unpack())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a whole checkpoint: {error!r}") from error
    if "line" not in notes:
        raise ModelError(f"{path} is not a whole checkpoint: it has no line of the record")
    return int(match[1]), groups, notes


def _paths(folder: Path) -> list[Path]:
    """Checkpoints, the oldest first."""
    if not folder.exists():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
