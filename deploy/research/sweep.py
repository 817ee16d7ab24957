"""Many runs: a grid of settings and seeds, as many at once as the machine has cores for.

A sweep is a folder with its plan in ``sweep.json`` and a run in a folder each, named after what
tells it from the others. Each run is a process of its own, which ends with that of the sweep. A
sweep that was stopped or killed goes on when the same command is given again: finished runs stay,
those that were begun go on from their last checkpoint.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from common.errors import RunError, SettingsError
from common.files import read_json, write_json
from deploy.processes import Process, stop_all
from deploy.signals import terminable

PLAN = "sweep.json"
_LONGEST = 100  # letters of a run's name
_PAUSE = 0.2  # seconds between looks at the processes
_GRACE = 10.0  # seconds that runs have to end when a sweep is stopped

Show = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a sweep.

    Attributes
    ----------
    name: of its folder.
    settings: all that it has beside the defaults, by dotted name.
    """

    name: str
    settings: dict[str, Any]


def points(
    fixed: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], seeds: Sequence[int]
) -> list[Point]:
    """Every combination of the grid's values, with every seed; the seeds of one setting together.

    Parameters
    ----------
    fixed: settings of all runs.
    grid: setting -> its values.
    seeds: of the runs; the partition keeps ``data.seed``, so that all have the same clients.

    Raises
    ------
    SettingsError: a setting has no value, has one twice, or is in the grid and fixed.
    """
    for key, values in grid.items():
        if not values or len({repr(value) for value in values}) < len(values):
            raise SettingsError(f"{key} needs values that differ, such as {key}=0.1,0.2")
        if key in fixed:
            raise SettingsError(f"{key} is both in the grid and fixed: give it once")
    if len(set(seeds)) < len(seeds) or not seeds:
        raise SettingsError("a sweep needs seeds that differ, such as 0-4 or 0,7")
    if {"seed", "run-name", "resume"} & {*fixed, *grid}:
        raise SettingsError("a sweep sets seed, run-name and resume itself; give --seeds")
    found = []
    for values in itertools.product(*grid.values()):
        varied = dict(zip(grid, values, strict=True))
        for seed in seeds:
            settings = {**fixed, **varied, "seed": seed}
            found.append(Point(_name({**varied, "seed": seed}), settings))
    if len({point.name for point in found}) < len(found):
        raise SettingsError("values of the grid are too long to name folders by; shorten them")
    return found


def _name(varied: Mapping[str, Any]) -> str:
    """What tells a run from the others, as a folder's name."""
    words = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in varied.items())
    return re.sub(r"[^\w.-]", "-", words)[:_LONGEST].strip("-.")


def prepare(folder: Path, found: Sequence[Point]) -> None:
    """Make a sweep's folder, or see that it is that of the same sweep.

    Raises
    ------
    SettingsError: a run's settings are wrong: nothing is begun.
    RunError: the folder holds another sweep.
    """
    from deploy.run_config import default_config
    from server_app.app import read_settings

    for point in found:
        read_settings(default_config() | point.settings)
    plan = {point.name: point.settings for point in found}
    path = folder / PLAN
    if path.is_file():
        kept = read_json(path)
        if differing := sorted(
            name for name in kept.keys() & plan.keys() if kept[name] != plan[name]
        ):
            raise RunError(
                f"{folder} holds a sweep with other settings, such as of {differing[0]}: name "
                "another folder"
            )
        plan = kept | plan
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)


def finished(folder: Path, point: Point) -> bool:
    """Whether a run of the sweep is finished."""
    from server_app.runs.record import read_meta

    try:
        return read_meta(folder / point.name).status == "finished"
    except RunError:
        return False


def command(point: Point, folder: Path) -> list[str]:
    """What runs one point, in a process of its own that ends with this one."""
    words = [sys.executable, "-m", "deploy.child", str(os.getpid()), "simulate", "--processes", "1"]
    settings = point.settings | {"run-name": point.name}
    if (folder / point.name / "run.json").is_file():
        settings["resume"] = True
    for key, value in settings.items():
        words += ["-s", f"{key}={json.dumps(value)}"]
    return words


def play(
    folder: Path, found: Sequence[Point], jobs: int, show: Show, done: Callable[[int], None]
) -> list[str]:
    """Run all points that are not finished; returns the names of those that failed.

    Parameters
    ----------
    jobs: processes at once.
    show: gets a line for each run that ends.
    done: gets the number of finished runs whenever it changes.

    When it is interrupted, all processes are stopped; each has a checkpoint of its last round.
    """
    waiting = [point for point in found if not finished(folder, point)]
    count = len(found) - len(waiting)
    if count:
        show(f"{count} of {len(found)} runs are finished already")
    done(count)
    running: dict[Point, tuple[Process, float]] = {}
    failed: list[str] = []
    with terminable():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    point = waiting.pop(0)
                    running[point] = _start(folder, point), time.monotonic()
                time.sleep(_PAUSE)
                for point, (process, begun) in list(running.items()):
                    if process.running:
                        continue
                    del running[point]
                    if finished(folder, point):
                        count += 1
                        took = time.monotonic() - begun
                        show(f"{point.name}: {_summary(folder / point.name)}, {took:.0f} s")
                        done(count)
                    else:
                        failed.append(point.name)
                        show(f"{point.name} failed: {_last_line(process)}")
        finally:
            stop_all([process for process, _ in running.values()], _GRACE)
    return failed


def _start(folder: Path, point: Point) -> Process:
    # One thread each: the runs share the cores, and their number must not change the results.
    environment = dict(os.environ) | {"AUGFLOWER_RUNS": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("AUGFLOWER_WATCH", None)  # one address is not for many
    log = folder / "logs" / f"{point.name}.log"
    process = Process(point.name, command(point, folder), environment, log)
    process.start()
    return process


def _last_line(process: Process) -> str:
    lines = process.output().strip().splitlines()
    return f"{lines[-1] if lines else 'it said nothing'} ({process.log})"


def _summary(folder: Path) -> str:
    from deploy.research.runs import table

    [row] = [row for row in table(folder.parent) if row["run"] == folder.name]
    if row["accuracy_after"] is None:
        return "finished"
    return f"{100 * row['accuracy_after']:.1f} % after adaptation"


def parse_grid(axes: Sequence[str]) -> dict[str, list[Any]]:
    """``["augfl.rho=0.5,1", "method=augfl,fedavg"]`` as setting -> values.

    Raises
    ------
    SettingsError: one has no equals sign, or a setting is there twice.
    """
    from deploy.assignments import parse_assignments

    grid: dict[str, list[Any]] = {}
    for axis in axes:
        key, equals, values = axis.partition("=")
        if not equals or key.strip() in grid:
            raise SettingsError(f"{axis!r} is no axis: write each as key=value,value once")
        grid[key.strip()] = [
            parse_assignments([f"x={value}"])["x"] for value in values.split(",") if value
        ]
    return grid


def parse_seeds(text: str) -> list[int]:
    """``"0-2,7"`` as [0, 1, 2, 7].

    Raises
    ------
    SettingsError: it is none.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise SettingsError(f"{text!r} are no seeds: write 0-4, or 0,7")
        first = int(match[1])
        seeds += range(first, int(match[2] or first) + 1)
    return seeds


def sweep(
    folder: Annotated[Path, typer.Argument(help="Of the sweep; its runs go into it.")],
    axes: Annotated[
        list[str] | None,
        typer.Option("--grid", "-g", metavar="KEY=VALUE,VALUE", help="May be repeated."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0-4 or 0,7.")] = "0",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of all runs."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; without it, one for each core.")
    ] = None,
) -> None:
    """Run every combination of settings and seeds; goes on where it was stopped."""
    from deploy.assignments import parse_assignments

    found = points(parse_assignments(settings or []), parse_grid(axes or []), parse_seeds(seeds))
    prepare(folder, found)
    console = Console(highlight=False, markup=False, emoji=False)
    with Progress(
        TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True),
        TextColumn("to go"), console=console, transient=True, disable=not console.is_terminal,
        speed_estimate_period=1e6,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=len(found))
        failed = play(
            folder, found, jobs or len(os.sched_getaffinity(0)),
            lambda line: console.print(line, soft_wrap=True),
            lambda count: bar.update(task, completed=count),
        )  # fmt: skip
    if failed:
        raise RunError(f"{len(failed)} of {len(found)} runs failed: {', '.join(failed[:5])}")
    console.print(f"{len(found)} runs; see augflower runs {folder}", soft_wrap=True)
