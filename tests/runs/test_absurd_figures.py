"""A record with absurd figures opens wherever records are shown.

Each kind of figure of ``metrics.jsonl`` is replaced, one kind at a time, by what no run can have
measured; nothing that shows a record may fail on it.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from common.errors import RunError
from server_app.monitoring import view
from server_app.monitoring.board import Board
from server_app.monitoring.metrics import make_registry
from server_app.monitoring.scalars import scalars
from server_app.monitoring.status import Status
from server_app.report.write import write_report
from server_app.runs.record import readable
from tests.monitoring.made import META
from tests.runs.synthetic import write_run

ABSURD: dict[str, Any] = {
    "huge": 1.7e308, "negative": -1.7e308, "tiny": 5e-324, "below zero": -3,
    "not a number": math.nan, "infinite": math.inf, "minus infinite": -math.inf,
    "nothing": None, "text": "1e308", "words": "soon", "true": True, "endless": 10**400,
    "list": [1], "object": {"a": 1},
}  # fmt: skip


def figures(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all numbers in a line; of a list only those in its first entry."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from figures(item, (*path, key))
    elif isinstance(value, list):
        for item in value[:1]:
            yield from figures(item, (*path, 0))
    elif isinstance(value, int | float) and path != ("round",):
        yield path


def replaced(line: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy of a line with another value there, and in all other entries of the same list."""
    line = copy.deepcopy(line)
    places: list[Any] = [line]
    for step in path[:-1]:
        places = [x for p in places for x in (p if step == 0 else [p[step]])]
    for place in places:
        place[path[-1]] = value
    return line


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sound"
    return write_run(folder, rounds=3, every=1, targets=3, sources=3, loses=0.3)


def paths(folder: Path) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(path for line in lines_of(folder) for path in figures(line)))


def test_every_figure_of_a_record_is_tried(sound: Path):
    found = {".".join(str(step) for step in path) for path in paths(sound)}
    wanted = {
        "seconds.train", "bytes_down", "bytes_up", "replies", "asked", "train.loss", "method.rho",
        "clients.0.seconds", "clients.0.loss", "clients.0.examples", "evaluation.accuracy_before",
        "evaluation.accuracy_after", "evaluation.loss_before", "evaluation.loss_after",
        "evaluation.std_after", "evaluation.examples", "evaluation.clients.0.accuracy_after",
        "evaluation.clients.0.examples",
    }  # fmt: skip
    assert wanted <= found


@pytest.mark.parametrize("name", ABSURD)
def test_a_record_with_absurd_figures_opens(name: str, sound: Path, tmp_path: Path):
    folder = tmp_path / "absurd"
    folder.mkdir()
    (folder / "run.json").write_bytes((sound / "run.json").read_bytes())
    for number, path in enumerate(paths(sound)):
        lines = []
        for line in lines_of(sound):
            has = any(path == other for other in figures(line))
            lines.append(replaced(line, path, ABSURD[name]) if has else line)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        try:
            write_report([folder], tmp_path / "one.html")
            if number % 4 == 0:  # a comparison reads the same record, and draws for seconds
                write_report([sound, folder], tmp_path / "two.html")
                write_report([folder, sound], tmp_path / "two.html")
            watched(lines, tmp_path)
        except Exception as error:
            raise AssertionError(f"{path} = {ABSURD[name]!r}") from error


def watched(lines: list[dict[str, Any]], folder: Path) -> None:
    """Show a run that goes on with these lines."""
    status = Status()
    status.begin(META, 9)
    for line in lines:
        status.close(readable(line))
    board = Board(status, folder)
    assert "<html" in board.render(server="s", nonce="n")
    seen = status.snapshot()
    view.head_of(seen, board._run(seen))
    for line in seen["lines"]:
        assert all(math.isfinite(value) for _, value in scalars(line))
    assert b"augflower_round" in generate_latest(make_registry(status))


@pytest.mark.parametrize("value", ["soon", None, math.nan, 1e308, [1]])
def test_a_line_without_a_round_names_the_line(value: Any, sound: Path, tmp_path: Path):
    folder = tmp_path / "absurd"
    folder.mkdir()
    (folder / "run.json").write_bytes((sound / "run.json").read_bytes())
    lines = lines_of(sound)
    lines[1]["round"] = value
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=r"line 2 is not the record of a round"):
        write_report([folder], tmp_path / "one.html")
