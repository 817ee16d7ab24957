"""The folder of a run: settings and versions, one record line a round, checkpoints, models."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import platform
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import RunError
from common.files import read_json, write_atomic, write_json
from common.tensors import Tensors
from server_app.runs import checkpoints
from server_app.runs.checkpoints import Checkpoint
from server_app.runs.record import SCHEMA, rounds_named
from server_app.runs.secret import new_secret, write_secret

META = "run.json"
LOCK = ".lock"
RECORD = "metrics.jsonl"
_SHA256 = "sha256"


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
        self._checks: dict[int, int] = {}  # round -> CRC-32 of its line in the record
        # Held until the process ends, however it ends: two must never write the same run.
        self._lock = (path / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RunError(
                f"run {path.name!r} in {path.parent} is still being written by another process; "
                "wait for it to end, or stop it"
            ) from None

    @classmethod
    def create(
        cls, root: Path, name: str, meta: Mapping[str, Any], secret: bytes | None = None
    ) -> RunFolder:
        """Make the folder of a new run.

        Parameters
        ----------
        secret: of the run, as ``new_secret`` gives it; without one, it gets one of its own.

        Raises
        ------
        RunError: a run of that name exists, or its folder cannot be written.
        """
        path = root / (name or time.strftime("%Y%m%d-%H%M%S"))
        with writable(path, "AUGFLOWER_RUNS names the folder that runs are kept in"):
            path.mkdir(parents=True, exist_ok=True)
            if _begun(path):
                raise RunError(
                    f"run {path.name!r} exists in {root}{_beginner(path)} choose another "
                    "run-name, or set resume=true to go on with it"
                )
            run = cls(path, {"run": path.name, "status": "running", "started": _now(), **meta})
            run.meta |= {"ended": None, "versions": _versions(), "machine": _machine()}
            run.meta |= {"token": secrets.token_hex(8), "schema_version": SCHEMA}
            run.meta.setdefault("resumed_from", None)
            _remove_torn(path)
            write_secret(path, secret or new_secret())
            (path / RECORD).touch()  # first: from run.json on there is a run to go on with
            run._write_meta()
        return run

    @classmethod
    def reopen(cls, root: Path, name: str) -> RunFolder:
        """The folder of a run that is to go on.

        Raises
        ------
        RunError: there is no such run, or it cannot be read or written.
        """
        path = root / name
        if not name or not (path / META).exists():
            raise RunError(f"there is no run {name!r} in {root} to resume")
        meta = read_settled(path)
        with writable(path, "it must be a folder that this user may write"):
            run = cls(path, meta)
            _remove_torn(path)
        return run

    def update(self, **changes: Any) -> None:
        """Change entries of ``run.json``.

        Raises
        ------
        RunError: it cannot be written.
        """
        self.meta |= changes
        with writable(self.path / META, "see to it that there is room"):
            self._write_meta()

    def finish(self, status: str, **notes: Any) -> None:
        """Note how the run ended, finished, failed or stopped, and let go of its folder."""
        try:
            self.update(status=status, ended=_now(), **notes)
        finally:
            self._lock.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line to the record; it is on disk when this returns."""
        text = _written(line)
        self._checks[line["round"]] = zlib.crc32(text)
        with (self.path / RECORD).open("ab") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def mend_record(
        self, round: int, line: Mapping[str, Any], notice: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Make the record end with ``round``, whose line is ``line``; returns all lines.

        A crash tears the last line, or comes between a checkpoint and its line. Earlier lines that
        are not as they were written are left out.

        Parameters
        ----------
        notice: is told which rounds are left out.
        """
        record, kept = self.path / RECORD, dict[int, bytes]()
        # As bytes: a text is split at more than line feeds, and damage need not be UTF-8.
        for text in record.read_bytes().split(b"\n") if record.exists() else []:
            try:
                number = json.loads(text)["round"]
                if number < round and self._checks.get(number) == zlib.crc32(text):
                    kept[number] = text
            except (ValueError, KeyError, TypeError):
                continue
        if lost := sorted(number for number in self._checks.keys() - kept.keys() if number < round):
            notice(
                f"{record}: the lines of {rounds_named(lost)} are damaged or lost; the run goes on "
                "as it would have, and its record lacks them"
            )
        if line:
            kept[round] = _written(line)
            self._checks[round] = zlib.crc32(kept[round])
        write_atomic(record, b"".join(text + b"\n" for text in kept.values()))
        return [json.loads(text) for text in kept.values()]

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
        checks = np.array(list(self._checks.items()), np.uint32)
        notes = {**notes, "line": _finite(line), "checks": checks.reshape(-1, 2)}
        checkpoints.save(self._checkpoints, self.meta["token"], round, groups, notes, keep)

    def load_checkpoint(self, notice: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint: round, tensors and notes, with the ``line`` of that round.

        Damaged ones that are newer are set aside under another name. Returns nothing if the run
        ended before its first.

        Parameters
        ----------
        notice: is told of each that is damaged.

        Raises
        ------
        RunError: the newest whole one is of another run.
        AugFlowerError: all are damaged; says what is wrong with the newest.
        """
        found = checkpoints.newest(self._checkpoints, self.meta["token"], notice)
        if found is not None:
            self._checks = dict(found[2].pop("checks").tolist())
        return found

    def _write_meta(self) -> None:
        write_json(self.path / META, {**self.meta, _SHA256: _digest(self.meta)})

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"


@contextmanager
def writable(path: Path, way_out: str) -> Iterator[None]:
    """What the operating system refuses in here is a RunError that names ``path``."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be used: {error}; {way_out}") from error


def begun_by(flower_run: int) -> str:
    """How a refusal names the run of Flower's that made a folder; the command looks for it."""
    return f", begun by Flower's run {flower_run}:"


def read_settled(path: Path) -> dict[str, Any]:
    """What ``run.json`` in the folder of a run holds.

    Raises
    ------
    RunError: it cannot be read, is not as it was written, or lacks what a run needs to go on.
    """
    try:
        meta = read_json(path / META)
        if meta.pop(_SHA256) != _digest(meta):
            reason = "it is not as it was written"
        elif isinstance(meta["settings"], dict) and isinstance(meta["token"], str):
            return dict(meta)
        else:
            reason = "its settings or token are none"
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    raise RunError(
        f"{path / META} cannot be read as a run: {reason}; restore the file, or begin a new run"
    )


def _beginner(path: Path) -> str:
    try:
        found = read_settled(path).get("flower_run")
    except RunError:
        found = None
    return begun_by(found) if isinstance(found, int) else ":"


def _begun(path: Path) -> bool:
    """Whether a folder holds more than what a crash leaves there before ``run.json``."""
    return any(
        not item.name.startswith(".") and (item.name != RECORD or item.stat().st_size > 0)
        for item in path.iterdir()
    )


def _remove_torn(path: Path) -> None:
    """Remove what a crash left beside its place; needs the lock, without which others write."""
    for torn in (*path.glob(".*.*"), *path.glob("*/.*")):
        if torn.is_file():
            torn.unlink()


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _written(line: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(line), ensure_ascii=False, allow_nan=False).encode()


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
