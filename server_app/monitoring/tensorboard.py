"""TensorBoard files of a run, in ``tensorboard`` of its folder.

A run that goes on writes all its rounds once more into a new file, after the mark with which
TensorBoard drops what older files hold from that step on: no round is drawn twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server_app.monitoring.scalars import scalars, unix

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FOLDER = "tensorboard"
_FLUSH = 5  # seconds after which what was written is on disk at the latest


class TensorBoard:
    """Writes every round of a run."""

    def __init__(self) -> None:
        from tensorboardX import SummaryWriter

        self._new_writer = SummaryWriter
        self._writer: SummaryWriter | None = None
        self._folder = Path()

    def begin(self, meta: Mapping[str, Any], folder: Path) -> None:
        """Remember where files belong; there is none before the first round."""
        self._folder = folder / FOLDER

    def round(self, line: Mapping[str, Any]) -> None:
        """Write a round's figures, with the time at which it was closed."""
        if self._writer is None:
            self._writer = self._new_writer(
                str(self._folder), purge_step=line["round"], flush_secs=_FLUSH
            )
        for tag, value in scalars(line):
            self._writer.add_scalar(tag, value, line["round"], walltime=unix(line))

    def end(self, how: str) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
