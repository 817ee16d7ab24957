"""A run's lines as they come, and under them, where a person watches, how far it is."""

from __future__ import annotations

import re
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_ROUND = re.compile(r"round +(\d+)/(\d+) ")
_DAY = 86_400.0  # seconds; rounds may be slow, and all of them say how long the others will take


class RunProgress:
    """Shows lines; on a terminal also a bar with the time to go.

    How far a run is follows from its own lines, which a fleet's server prints as well.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("rounds"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("to go"),
            console=console,
            transient=True,
            speed_estimate_period=_DAY,
            disable=not console.is_terminal,
        )

    def __call__(self, line: str) -> None:
        """Show one line, as it is and unwrapped; move the bar if it is about a round."""
        self._console.print(line, soft_wrap=True)
        if match := _ROUND.match(line):
            done, rounds = int(match[1]), int(match[2])
            if self._task is None:
                self._task = self._bar.add_task("", total=rounds, completed=done)
            self._bar.update(self._task, completed=done, total=rounds)

    @property
    def done(self) -> tuple[int, int] | None:
        """Rounds that are over, and all of them; None before the first is."""
        if self._task is None:
            return None
        task = self._bar.tasks[0]
        return int(task.completed), int(task.total or 0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
