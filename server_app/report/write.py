"""The page of a run, or of several compared: one HTML file.

Style and data are inline, fonts are the reader's own. The page that somebody asks for has the
script that draws charts inline as well: it needs nothing else, and may be mailed. The one that a
run writes beside its record refers to a file that all runs in a folder share; it is rebuilt after
every round, replaced atomically, and reloads itself while the run goes on.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from common.errors import RunError
from common.files import write_atomic
from server_app.report import comparison, single, words
from server_app.report.sections import Section, Table, lines_of, thinned
from server_app.report.seeds import grouped
from server_app.report.templates import environment, library, share_library
from server_app.runs.record import Run, read_run

REFRESH = 5  # seconds between reloads of the page of a running run


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    kicker: list[str]
    headline: str
    lede: list[str]
    sections: list[Section]
    settings: Table
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    results: Table | None = None
    refresh: int | None = None
    progress: float | None = None  # percent of the rounds done, of a running run
    note: str = ""


def write_report(folders: Sequence[Path], out: Path, shared: Path | None = None) -> Path:
    """Write the page of one run, or of several compared, to ``out`` and return it.

    Parameters
    ----------
    shared: folder of the script that the page shares with others; None makes it stand alone.

    Raises
    ------
    RunError: no folder, or one of them holds no readable run.
    """
    if not folders:
        raise RunError("a report needs at least one run folder")
    runs = grouped([read_run(Path(folder)) for folder in folders])
    page = single_page(runs[0]) if len(runs) == 1 and not runs[0].members else comparison_page(runs)
    out = Path(out)
    template = environment().get_template("report.html.j2")
    script = "" if shared is None else _address(share_library(shared), out.parent)
    write_atomic(out, template.render(page=page, script=script, library=library))
    return out


def single_page(run: Run) -> Page:
    """The content of the page of one run."""
    meta = run.meta
    done = run.rounds[-1].round if run.rounds else 0
    planned = meta.settings.get("rounds")
    status: str = meta.status
    progress = None
    if status == "running" and isinstance(planned, int) and planned > 0:
        progress = 100 * min(done / planned, 1.0)
        status = f"running, round {done} of {planned}"
    kicker = [meta.run, meta.method, *_data_and_model(run), _day(meta.started), status]
    return Page(
        title=f"{meta.run} · AugFlower",
        kicker=kicker,
        headline=words.headline(run),
        lede=words.sentences(run),
        sections=single.sections_of(run),
        settings=comparison.settings_table([run], ["Value"], only_differing=False),
        facts=single.facts_of(run),
        refresh=REFRESH if meta.status == "running" else None,
        progress=progress,
        note=thinned([run]),
    )


def comparison_page(runs: Sequence[Run]) -> Page:
    """The content of the page of several runs."""
    names, base = words.labels(runs), words.base_of(runs)
    lines = lines_of(runs, names, base)
    common = [
        part for part in _data_and_model(runs[0]) if all(part in _data_and_model(r) for r in runs)
    ]
    running = any(run.meta.status == "running" for run in runs)
    return Page(
        title=f"{len(runs)} runs · AugFlower",
        kicker=[f"{len(runs)} runs compared", *common, _day(max(r.meta.started for r in runs))],
        headline=words.comparison_headline(runs, names, base),
        lede=words.comparison_sentences(runs, names, base),
        sections=comparison.sections_of(lines, base),
        settings=comparison.settings_table(runs, names, only_differing=False),
        results=comparison.results(lines, base),
        refresh=REFRESH if running else None,
        note=thinned(runs),
    )


def _data_and_model(run: Run) -> list[str]:
    parts = [run.meta.settings.get("data.name"), run.meta.model.get("name")]
    return [str(part) for part in parts if part]


def _day(when: datetime) -> str:
    return f"{when.day} {when:%B %Y, %H:%M}"


def _address(path: Path, seen_from: Path) -> str:
    return Path(os.path.relpath(path, seen_from)).as_posix()
