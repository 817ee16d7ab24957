"""A table of runs: what each was, how it ended, what it reached."""

from __future__ import annotations

import csv
import math
import operator
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import AugFlowerError, RunError, SettingsError
from deploy.run_folder import runs_in

Row = dict[str, Any]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne, ">=": operator.ge, "<=": operator.le,
    "=": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_CONDITION = re.compile(r"^([^=!<>]+)(!=|>=|<=|=|>|<)(.*)$")


def table(folder: Path, columns: Sequence[str] = ()) -> list[Row]:
    """One row for each run in ``folder``, in the order in which they began.

    Parameters
    ----------
    columns: settings by dotted name that each row has as well.

    Returns
    -------
    Rows with ``run``, ``method``, ``data``, ``model``, ``seed``, ``status``, ``round``,
    ``rounds``, ``started``, ``seconds``, ``loss``, ``accuracy_before`` and ``accuracy_after`` (of
    the last evaluation, shares from 0 to 1; None where there is none). A run whose record is
    damaged has the status "damaged".

    Raises
    ------
    RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder of runs; name the one that runs are kept in")
    rows = [row_of(path, columns) for path in runs_in(folder)]
    return sorted(rows, key=lambda row: (row["started"] or "", row["run"]))


def row_of(folder: Path, columns: Sequence[str]) -> Row:
    """The row of one run; see ``table``."""
    from server_app.runs.record import read_run

    empty = dict.fromkeys(
        ("method", "data", "model", "seed", "status", "round", "rounds", "started", "seconds",
         "loss", "accuracy_before", "accuracy_after", *columns)
    )  # fmt: skip
    try:
        run = read_run(folder)
    except AugFlowerError:
        return {"run": folder.name} | empty | {"status": "damaged"}
    meta, settings = run.meta, run.meta.settings
    row = {"run": folder.name} | empty
    row |= {
        "method": meta.method,
        "data": settings.get("data.name"),
        "model": settings.get("model"),
        "seed": settings.get("seed"),
        "status": meta.status,
        "rounds": settings.get("rounds"),
        "started": meta.started.isoformat(timespec="seconds"),
    }
    row |= {name: settings.get(name) for name in columns}
    if run.rounds:
        row["round"] = run.rounds[-1].round
        row["seconds"] = sum(sum(line.seconds.values()) for line in run.rounds)
        losses = [line.train["loss"] for line in run.rounds if "loss" in line.train]
        row["loss"] = losses[-1] if losses else None
    if run.evaluated:
        evaluated = run.evaluated[-1][1]
        row["accuracy_before"] = evaluated.accuracy_before
        row["accuracy_after"] = evaluated.accuracy_after
    return row


def chosen(folder: Path, conditions: Sequence[str], columns: Sequence[str], sort: str) -> list[Row]:
    """The rows that meet all conditions, sorted by a column; ``-column`` sorts downwards.

    Parameters
    ----------
    conditions: such as "method=augfl", "accuracy_after>0.8" or "augfl.lambda=0".

    Raises
    ------
    RunError: there is no such folder.
    SettingsError: a condition, or the column to sort by, is none.
    """
    parsed = [_parse(condition) for condition in conditions]
    named = [name for name, _, _ in parsed] + [sort.removeprefix("-")] * bool(sort)
    rows = table(folder, [*columns, *(name for name in named if "." in name)])
    known = set().union(*rows) if rows else set(named)
    for name in named:
        if name not in known:
            raise SettingsError(
                f"runs have no column {name!r}; there are {', '.join(sorted(known))}, and settings "
                "by dotted name"
            )
    kept = [row for row in rows if all(_meets(row, *condition) for condition in parsed)]
    if sort:
        name = sort.removeprefix("-")
        have = sorted(
            (row for row in kept if row[name] is not None),
            key=lambda row: (isinstance(row[name], str), row[name]),
            reverse=sort.startswith("-"),
        )
        kept = have + [row for row in kept if row[name] is None]
    shown = [name for name in kept[0] if "." not in name or name in columns] if kept else []
    return [{name: row[name] for name in shown} for row in kept]


def _parse(condition: str) -> tuple[str, str, Any]:
    match = _CONDITION.match(condition)
    if not match:
        raise SettingsError(f"{condition!r} is no condition: write method=augfl or loss<0.5")
    from deploy.assignments import parse_assignments

    name, sign, value = match.groups()
    return name.strip(), sign, parse_assignments([f"x={value}"])["x"]


def _meets(row: Row, name: str, sign: str, wanted: Any) -> bool:
    value = row[name]
    if value is None:
        return False
    if isinstance(value, str) != isinstance(wanted, str):
        value, wanted = str(value), str(wanted)
    return _COMPARE[sign](value, wanted)


def runs(
    folder: Annotated[Path, typer.Argument(help="That holds the runs' folders.")] = Path("runs"),
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", metavar="CONDITION", help="Such as method=augfl or loss<0.5"),
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option("--show", metavar="SETTING", help="A setting as a column; may be repeated."),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="A column; with a minus before it, downwards: -accuracy_after")
    ] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="For programs.")] = False,
) -> None:
    """List runs: what each was, how it ended, what it reached."""
    rows = chosen(folder, where or [], show or [], sort)
    if as_csv:
        writer = csv.DictWriter(sys.stdout, rows[0] if rows else ["run"])
        writer.writeheader()
        writer.writerows(rows)
        return
    if not rows:
        print(f"no runs in {folder}" + (" meet the conditions" if where else ""))
        return
    for line in aligned(rows):
        print(line)


def aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as lines of aligned columns, under their names."""
    cells = [list(rows[0])] + [[cell(name, row[name]) for name in row] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def cell(name: str, value: Any) -> str:
    """A value as people read it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if name.startswith("accuracy"):
        return f"{100 * value:.1f} %"
    if name == "seconds":
        return f"{value:.1f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
