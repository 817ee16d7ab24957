"""The folder of a run: settings and versions, one record line a round, checkpoints, models."""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.files import read_json, write_atomic, write_json
from common.tensorfile import dump, parse
from common.tensors import Tensors
from server_app.runs.nested import flatten, unflatten

META = "run.json"
_LOCK = ".lock"
RECORD = "metrics.jsonl"
_CHECKPOINT = re.compile(r"round-(\d{6})\.safetensors")


class RunFolder:
    """Everything that a run leaves behind.

    Attributes
    ----------
    path: the folder.
    meta: what ``run.json`` holds.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        # Held until the process ends, however it ends: two must never write the same run.
        self._lock = (path / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RunError(
                f"run {path.name!r} in {path.parent} is still being written by another process; "
                "wait for it to end, or stop it"
            ) from None

    @classmethod
    def create(cls, root: Path, name: str, meta: Mapping[str, Any]) -> RunFolder:
        """Make the folder of a new run.

        Raises
        ------
        RunError: a run of that name exists.
        """
        path = root / (name or time.strftime("%Y%m%d-%H%M%S"))
        path.mkdir(parents=True, exist_ok=True)
        if any(item.name != _LOCK for item in path.iterdir()):
            raise RunError(
                f"run {path.name!r} exists in {root}: choose another run-name, or set resume=true "
                "to go on with it"
            )
        run = cls(path, {"run": path.name, "status": "running", "started": _now(), **meta})
        run.meta |= {"ended": None, "versions": _versions(), "machine": _machine()}
        run.meta |= {"token": secrets.token_hex(8)}
        run.meta.setdefault("resumed_from", None)
        write_json(path / META, run.meta)
        (path / RECORD).touch()
        return run

    @classmethod
    def reopen(cls, root: Path, name: str) -> RunFolder:
        """The folder of a run that is to go on.

        Raises
        ------
        RunError: there is no such run.
        """
        path = root / name
        if not name or not (path / META).exists():
            raise RunError(f"there is no run {name!r} in {root} to resume")
        run = cls(path, read_json(path / META))
        for torn in path.glob("*/.*"):
            torn.unlink()  # what a crash left beside its place
        return run

    def update(self, **changes: Any) -> None:
        """Change entries of ``run.json``."""
        self.meta |= changes
        write_json(self.path / META, self.meta)

    def finish(self, status: str, **notes: Any) -> None:
        """Note how the run ended, finished, failed or stopped, and let go of its folder."""
        self.update(status=status, ended=_now(), **notes)
        self._lock.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line to the record; it is on disk when this returns."""
        text = json.dumps(_finite(line), ensure_ascii=False, allow_nan=False)
        with (self.path / RECORD).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    def mend_record(self, round: int, line: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Make the record end with ``round``, whose line is ``line``; returns all lines.

        A crash tears the last line, or comes between a checkpoint and its line.
        """
        kept = []
        for text in (self.path / RECORD).read_text(encoding="utf-8").splitlines():
            try:
                kept += [old] if (old := json.loads(text))["round"] < round else []
            except (ValueError, KeyError):
                continue
        kept += [_finite(line)] if line else []
        lines = [json.dumps(old, ensure_ascii=False) + "\n" for old in kept]
        write_atomic(self.path / RECORD, "".join(lines))
        return kept

    def save_checkpoint(
        self,
        round: int,
        groups: Mapping[str, Tensors],
        notes: Mapping[str, Any],
        line: Mapping[str, Any],
        keep: int,
    ) -> None:
        """Write the checkpoint of a round, then drop all but the newest ``keep`` (0 keeps all).

        Parameters
        ----------
        line: of the record, about this round.
        """
        plain, arrays = flatten({**notes, "line": _finite(line)})
        stored = {**groups, "notes": Tensors.pack(arrays)}
        folder = self.path / "checkpoints"
        write_atomic(folder / f"round-{round:06}.safetensors", dump(stored, plain))
        for old in self._checkpoints()[:-keep] if keep else []:
            old.unlink()

    def load_checkpoint(self) -> tuple[int, dict[str, Tensors], dict[str, Any]] | None:
        """The newest checkpoint: round, tensors and notes, with the ``line`` of that round.

        Returns nothing if the run ended before its first.

        Raises
        ------
        ModelError: it is damaged.
        """
        paths = self._checkpoints()
        if not paths:
            return None
        groups, plain = parse(paths[-1].read_bytes(), str(paths[-1]))
        arrays = groups.pop("notes").unpack()
        match = _CHECKPOINT.fullmatch(paths[-1].name)
        assert match
        return int(match[1]), groups, unflatten(plain, arrays)

    def _checkpoints(self) -> list[Path]:
        folder = self.path / "checkpoints"
        if not folder.exists():
            return []
        return sorted(path for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name))


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite is recorded as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("augflower", "flwr", "torch", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
