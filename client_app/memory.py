"""What a device remembers between rounds of one run.

With a state folder the memory is durable: one atomic file a method, in a folder a run, so that a
device that loses power continues where it was. Without one it lives in Flower's context and lasts
as long as the SuperNode.

A server that was killed in a round plays that round again, and a reply that was lost is asked for
again. What a device keeps to itself must then be what it was before that round, so ``write`` with
a round keeps the version before it as well, and ``read`` can ask for it. What is written without a
round is older than any.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context

from common.errors import ModelError
from common.files import remove_abandoned, write_atomic
from common.tensorfile import dump, parse
from common.tensors import Tensors

log = logging.getLogger(__name__)

Kept = tuple[dict[str, Tensors], dict[str, Any]]
_TOKEN = "run"
_BEFORE = "{}-before"
_ROUND = "memory-round"


class Memory:
    """Named tensors and notes, read and written whole."""

    def __init__(self, context: Context, folder: Path | None) -> None:
        self._context = context
        self._folder = folder

    def belong(self, token: str) -> None:
        """Forget what another run of the same name, or a killed process, has left.

        Parameters
        ----------
        token: names the run.
        """
        if self._folder is None:
            return  # Flower's context belongs to one run
        remove_abandoned(self._folder)
        mark = self._folder / _TOKEN
        if mark.exists() and mark.read_bytes() == token.encode():
            return
        for path in self._folder.glob("*.safetensors"):
            path.unlink()
        write_atomic(mark, token)

    def read(self, name: str, before: int | None = None) -> Kept | None:
        """What was written last under ``name``; nothing if it was never written or is damaged.

        Parameters
        ----------
        before: the newest that was written in an earlier round than this one. Of later rounds, in
            which the server has gone back by more than one, the oldest that there is.
        """
        newest = self._parse(name)
        if newest is None or before is None or newest[1] < before:
            return newest and newest[0]
        older = self._parse(_BEFORE.format(name))
        return older and older[0]

    def write(
        self,
        name: str,
        groups: Mapping[str, Tensors],
        notes: Mapping[str, Any],
        round: int = 0,
    ) -> None:
        """Replace what is kept under ``name``.

        Parameters
        ----------
        round: with it, the version of an earlier round stays readable; 0 is before all rounds.
        """
        if round:
            newest, kept = self._read_bytes(name), self._parse(name)
            if newest is not None and kept is not None and kept[1] < round:
                self._write_bytes(_BEFORE.format(name), newest)
        self._write_bytes(name, dump(groups, {**notes, _ROUND: round}))

    def _parse(self, name: str) -> tuple[Kept, int] | None:
        """What is kept under a name, and the round that it was written in."""
        content = self._read_bytes(name)
        if content is None:
            return None
        try:
            groups, notes = parse(content, f"memory {name!r}")
        except ModelError as error:
            log.warning("%s; the device starts without it", error)
            return None
        return (groups, notes), notes.pop(_ROUND, 0)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.safetensors"

    def _read_bytes(self, name: str) -> bytes | None:
        if self._folder:
            path = self._path(name)
            return path.read_bytes() if path.exists() else None
        record = self._context.state.config_records.get(f"memory.{name}")
        content = record["content"] if record else None
        return content if isinstance(content, bytes) else None

    def _write_bytes(self, name: str, content: bytes) -> None:
        if self._folder:
            write_atomic(self._path(name), content)
        else:
            self._context.state[f"memory.{name}"] = ConfigRecord({"content": content})
