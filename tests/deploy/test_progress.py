"""Lines are whole however narrow the terminal, and a bar says how far a run is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deploy import cli
from deploy.progress import RunProgress

LINE = "round  3/30 · 6/6 replies · loss 1.2345 · targets 12.1 % before, 57.8 % after · 0.2 s"


def shown(terminal: bool, *lines: str) -> tuple[str, RunProgress]:
    file = io.StringIO()
    console = Console(
        file=file,
        width=40,
        force_terminal=terminal,
        highlight=False,
        markup=False,
        color_system=None,
    )
    with RunProgress(console) as progress:
        for line in lines:
            progress(line)
    return file.getvalue(), progress


def test_a_log_has_the_lines_and_nothing_else():
    out, progress = shown(False, "the run is in [bold]", LINE)
    assert out == f"the run is in [bold]\n{LINE}\n"
    assert progress.done == (3, 30)


def test_a_terminal_has_a_bar_under_whole_lines():
    out, progress = shown(True, LINE, LINE.replace(" 3/", " 4/"), "a notice of round 9/30 ")
    assert LINE in out
    assert "4/30" in out
    assert "to go" in out
    assert progress.done == (4, 30)


def test_a_run_that_goes_on_is_not_credited_with_old_rounds():
    """The time to go follows from rounds that were seen, not from those before."""
    _, progress = shown(True, "round 20/30 · ", "round 21/30 · ")
    task = progress._bar.tasks[0]
    assert task.speed is None or task.speed > 0
    assert task.completed == 21
    assert sum(sample.completed for sample in task._progress) == 1


@pytest.mark.parametrize("width", [20, 80])
def test_the_command_line_does_not_wrap(width: int, monkeypatch, capsys):
    monkeypatch.setattr(cli.console, "width", width)
    cli.say(LINE)
    assert capsys.readouterr().out == f"{LINE}\n"
