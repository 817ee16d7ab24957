"""Checkpoints of a run: one file a round, the newest kept, a damaged one passed over.

They hold features of the private model, so that only their owner may read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import AugFlowerError, ModelError, RunError
from common.files import OWN, write_atomic
from common.tensorfile import dump, parse
from common.tensors import Tensors
from server_app.runs.nested import flatten, unflatten

Checkpoint = tuple[int, dict[str, Tensors], dict[str, Any]]
"""Round, tensors and notes, with the ``line`` of the record about that round."""

DAMAGED = ".damaged"
"""Ends the name of a checkpoint that was passed over."""

_ARRAYS = "arrays-of-notes"  # no name of an attribute, as other groups have
_NAME = re.compile(r"round-(\d{6})\.safetensors")


def save(
    folder: Path,
    token: str,
    round: int,
    groups: Mapping[str, Tensors],
    notes: Mapping[str, Any],
    keep: int,
) -> None:
    """Write the checkpoint of a round, then drop all but the newest ``keep`` (0 keeps all).

    Parameters
    ----------
    token: of the run, and of no other.
    """
    plain, arrays = flatten({**notes, "token": token})
    stored = {**groups, _ARRAYS: Tensors.pack(arrays)}
    write_atomic(folder / f"round-{round:06}.safetensors", dump(stored, plain), OWN)
    for old in _paths(folder)[:-keep] if keep else []:
        old.unlink()


def newest(folder: Path, token: str, notice: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint; nothing if there is none.

    Damaged ones that are newer get another name, so that they are neither read nor counted again.

    Parameters
    ----------
    token: of the run that goes on.
    notice: is told of each that is damaged.

    Raises
    ------
    RunError: the newest whole one is of another run.
    AugFlowerError: all are damaged; says what is wrong with the newest.
    """
    damaged: dict[Path, AugFlowerError] = {}
    for path in reversed(_paths(folder)):
        try:
            found = _read(path)
        except AugFlowerError as error:
            damaged[path] = error
            continue
        if found[2]["token"] != token:
            raise RunError(
                f"{path} is a checkpoint of another run; take it away, and bring back those of "
                "this run if there were any"
            )
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
        notes = unflatten(plain, groups.pop(_ARRAYS).unpack())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a whole checkpoint: {error!r}") from error
    if not notes.keys() >= {"line", "token"} or notes["line"].get("round") != int(match[1]):
        raise ModelError(f"{path} is not the checkpoint of that round")
    return int(match[1]), groups, notes


def _paths(folder: Path) -> list[Path]:
    """Checkpoints, the oldest first."""
    if not folder.exists():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
