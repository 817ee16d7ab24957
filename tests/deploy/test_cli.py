"""The command line shows foreign text as it is, and what it refuses without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy import cli
from deploy import simulate as simulation
from server_app.runs.folder import RunFolder
from tests.runs.synthetic import write_run

ODD = "node 7: [Errno 2] no [/srv/images] and no [bold] :key: in [red]"


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """What a command says on standard error; it has to end with 1."""
    monkeypatch.setattr(sys, "argv", ["augflower", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["[/red]x", "[bold]", ":key:"])
def test_an_error_shows_brackets_as_they_are(name: str, monkeypatch, capsys, tmp_path: Path):
    said = refused(monkeypatch, capsys, "resume", str(tmp_path / name))
    assert said == f"error: {tmp_path / name} is not the folder of a run\n"


@pytest.mark.parametrize("command", ["simulate", "resume"])
def test_a_notice_shows_brackets_as_they_are(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def say(overrides, server, notice: Callable[[str], None], **_) -> Path:
        notice(ODD)
        return tmp_path

    folder = RunFolder.create(tmp_path, "a", {"settings": {}})
    folder.finish("failed")
    monkeypatch.setattr(simulation, "simulate", say)
    monkeypatch.setattr(cli.console, "width", 200)
    told = CliRunner().invoke(cli.app, [command, *([str(folder.path)] * (command == "resume"))])
    assert told.exit_code == 0, told.output
    assert ODD in told.output


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]"])
def test_a_damaged_run_is_not_resumed(content: bytes, monkeypatch, capsys, tmp_path: Path):
    (tmp_path / "run.json").write_bytes(content)
    assert "run.json cannot be read as a run" in refused(
        monkeypatch, capsys, "resume", str(tmp_path)
    )


def test_a_folder_of_runs_that_cannot_be_made_is_named(monkeypatch, capsys, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUGFLOWER_RUNS", str(tmp_path / "file" / "runs"))
    said = refused(monkeypatch, capsys, "simulate", "-s", "augfl.lambda=0", "-s", "run-name=a")
    assert f"{tmp_path}/file/runs/a cannot be used" in said
    assert "AUGFLOWER_RUNS" in said


def test_the_report_of_a_folder_of_runs_is_of_all_of_them(monkeypatch, tmp_path: Path):
    runs = [write_run(tmp_path / "sweep" / f"lr-{n}", settings={"x": n}) for n in range(2)]
    (tmp_path / "sweep" / "logs").mkdir()
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(cli.app, ["report", "sweep"])
    assert told.exit_code == 0, told.output
    page = Path("comparison.html").read_text()
    assert all(run.name in page for run in runs)
