"""What a device remembers between rounds of one run.

With a state folder the memory is durable: one atomic file a method, in a folder a run, so that a
device that loses power continues where it was. Without one it lives in Flower's context and lasts
as long as the SuperNode.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context

from common.errors import ModelError
from common.files import write_atomic
from common.tensorfile import dump, parse
from common.tensors import Tensors

log = logging.getLogger(__name__)


class Memory:
    """Named tensors and notes, read and written whole."""

    def __init__(self, context: Context, folder: Path | None) -> None:
        self._context = context
        self._folder = folder

    def read(self, name: str) -> tuple[dict[str, Tensors], dict[str, Any]] | None:
        """What was written last under ``name``; nothing if it was never written or is damaged."""
        content = self._read_bytes(name)
        if content is None:
            return None
        try:
            return parse(content, f"memory {name!r}")
        except ModelError as error:
            log.warning("%s; the device starts without it", error)
            return None

    def write(self, name: str, groups: Mapping[str, Tensors], notes: Mapping[str, Any]) -> None:
        """Replace what is kept under ``name``."""
        content = dump(groups, notes)
        if self._folder:
            write_atomic(self._path(name), content)
        else:
            self._context.state[f"memory.{name}"] = ConfigRecord({"content": content})

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
