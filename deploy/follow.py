"""``augflower follow``: the console of a run that goes on, or is over."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from common.errors import RunError
from deploy.connection import Certificates, Insecure, Kit, SuperLink, connected
from deploy.progress import RunProgress
from deploy.run_folder import find_run, writer

Run = Annotated[
    str,
    typer.Argument(help="A run: its folder, its name in ./runs or, on a fleet, Flower's number."),
]
_POLL = 0.5
_SILENT = 5.0
"""Seconds without a round after which one looks whether somebody still writes the run."""


def follow(
    run: Run,
    kit: Kit = None,
    superlink: SuperLink = None,
    root_certificates: Certificates = None,
    insecure: Insecure = False,
) -> None:
    """Show what a run says, from its beginning to its end; Ctrl-C leaves it as it is.

    From its record or, with --kit or --superlink, from the SuperLink of its fleet.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    with contextlib.suppress(KeyboardInterrupt), RunProgress(console) as show:
        if kit or superlink or root_certificates or insecure:
            from deploy.submit import look_on

            with connected(kit, superlink, root_certificates, insecure) as control:
                look_on(control, run_number(run), show)
            return
        for line in told_by(find_run(run)):
            show(line)


def run_number(run: str) -> int:
    """Flower's number of a run that is given by it, by its folder or by its name.

    Raises
    ------
    RunError: there is no such run.
    """
    from server_app.runs.record import read_meta

    return int(run) if run.isdecimal() else read_meta(find_run(run)).flower_run


def told_by(folder: Path) -> Iterator[str]:
    """What a run has said, as its record has it, and says until its end.

    Raises
    ------
    RunError: the run failed or was stopped, or its record cannot be read.
    """
    from server_app.report import words
    from server_app.rounds.loop import plain, summary
    from server_app.rounds.reasons import told
    from server_app.runs.record import read_meta, read_run

    place, since, doubted = 0, time.monotonic(), False
    while True:
        meta = read_meta(folder)  # before the record: what it ends with is then there
        lines, place = _lines(folder, place)
        rounds = int(meta.settings.get("rounds", 0))
        for line in lines:
            yield from told(line, partial(_name, meta.nodes))
            yield summary(line["round"], rounds, line)
            since = time.monotonic()
        if meta.status != "running":
            yield plain(words.headline(read_run(folder)))
            if meta.status != "finished":
                reason = f": {meta.error}" if meta.error else ""
                raise RunError(
                    f"the run {'was ' * (meta.status == 'stopped')}{meta.status}{reason}"
                )
            return
        if not doubted and time.monotonic() - since > _SILENT and writer(folder) == 0:
            doubted = True
            yield (
                "no process of this machine writes this run: it goes on elsewhere, or was killed; "
                f"then: augflower resume {folder}"
            )
        time.sleep(_POLL)


def _name(names: Mapping[str, str], node: int) -> str:
    return names.get(str(node), f"node {node}")


def _lines(folder: Path, place: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of the record from a place on, and the place after them."""
    from server_app.runs.folder import RECORD

    try:
        with (folder / RECORD).open("rb") as file:
            file.seek(place)
            text = file.read()
    except OSError as error:
        raise RunError(f"{folder / RECORD} cannot be read: {error.strerror}") from None
    whole = text[: text.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):  # a damaged line is left out
            lines.append(json.loads(line, object_hook=_numbers))
    return lines, place + len(whole)


def _numbers(entries: dict[str, Any]) -> dict[str, Any]:
    """What was no finite number is null in the record."""
    return {key: math.nan if value is None else value for key, value in entries.items()}
