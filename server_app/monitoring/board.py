"""The parts of the live page, drawn only when somebody asks and only where something changed."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from common.errors import RunError
from server_app.monitoring import view
from server_app.monitoring.reader import Reader
from server_app.monitoring.status import ENDS, Status
from server_app.monitoring.throttle import Throttle
from server_app.report import single
from server_app.report.templates import LIBRARY, environment
from server_app.runs.record import Meta, Round, Run, read_meta

FOLDER = Path(__file__).parent / "page"
CHART_SHARE = 0.1
"""Share of the time that drawing charts may take from the round loop."""
MOST_DRAWN = 200  # rounds that a chart draws; of longer runs every k-th


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes
    ----------
    html: what stands there.
    version: of the page in which it last changed.
    """

    html: Markup
    version: int


@dataclass(frozen=True)
class Page:
    """The whole page; its version grows with every change."""

    version: int
    title: str
    ended: bool
    parts: dict[str, Part]  # in the order of the page


class Board:
    """Follows one status; not to be shared by threads.

    Attributes
    ----------
    folder: that of the present run; None before one has begun.
    """

    def __init__(self, status: Status, runs: Path) -> None:
        self._reader = Reader(status)
        self._runs = runs
        self._rounds: list[Round] = []
        self._begins = 0
        self._seen = -1  # version of the status
        self._version = 0  # grows with every change of a part
        self._parts: dict[str, Part] = {}
        self._page: Page | None = None
        self._drawn = -1  # rounds in the charts
        self._charts: dict[str, Markup] = {}
        self._throttle = Throttle(CHART_SHARE)
        self._templates = environment(FOLDER)
        self._macros: Any = self._templates.get_template(
            "live_parts.html.j2", globals={"elapsed": view.elapsed}
        ).module
        self._sections: Any = self._templates.get_template("parts.html.j2").module
        self.folder: Path | None = None

    def look(self) -> Page:
        """The page as of now."""
        seen = self._reader.read()
        behind = self._drawn != len(self._rounds) and self._throttle.due
        if self._page is None or seen["version"] != self._seen or behind:
            self._seen = seen["version"]
            self._page = self._draw(seen)
        return self._page

    def render(self, **details: Any) -> str:
        """The whole document, for a first visit or a browser without scripts."""
        page = self.look()
        parts = {key: part.html for key, part in page.parts.items()}
        return self._templates.get_template("live.html.j2").render(
            title=page.title,
            version=page.version,
            parts=parts,
            now=time.time(),
            library=LIBRARY,
            **details,
        )

    def render_login(self, *, wrong: bool) -> str:
        """The page that asks for the token."""
        return self._templates.get_template("login.html.j2").render(wrong=wrong)

    def _draw(self, seen: dict[str, Any]) -> Page:
        now, self._version = time.time(), self._version + 1
        if seen["begins"] == 0:
            html = {"head": Markup("<header><h1>No run has begun yet</h1></header>")}
            title = "AugFlower"
        else:
            run = self._run(seen)
            head = view.head_of(seen, run)
            title = head.title
            charts = self._draw_charts(run, at_once=seen["phase"] in ENDS)
            html = {"head": self._macros.head(head, now)}
            html |= {key: charts[key] for key in ("accuracy",) if key in charts}
            html["nodes"] = self._macros.nodes(view.nodes_of(seen), now)
            if lost := view.losses_of(seen):
                html["replies"] = self._macros.losses(lost, view.MOST_LOSSES)
            html |= charts
        old = self._parts
        self._parts = {
            key: old[key] if key in old and old[key].html == text else Part(text, self._version)
            for key, text in html.items()
        }
        return Page(self._version, title, seen["phase"] in ENDS, self._parts)

    def _run(self, seen: dict[str, Any]) -> Run:
        if seen["begins"] != self._begins:
            self._begins, self._drawn, self._throttle = seen["begins"], -1, Throttle(CHART_SHARE)
            self._charts, self._rounds = {}, []
        for line in self._reader.lines[len(self._rounds) :]:
            # Counts stand there instead of lists; the page lists incidents by itself.
            counted = {"missing": [], "rejected": [], "refusals": line["rejected"]}
            self._rounds.append(Round.model_validate(line | counted))
        meta = Meta.model_validate(seen["meta"])
        self.folder = self._runs / meta.run
        if seen["phase"] in ENDS:
            with contextlib.suppress(RunError):  # it says why a run failed
                meta = read_meta(self.folder)
            meta = meta.model_copy(update={"status": seen["phase"]})
        return Run(self.folder, meta, self._rounds, MOST_DRAWN)

    def _draw_charts(self, run: Run, *, at_once: bool) -> dict[str, Markup]:
        """The sections of charts; they change when a round is closed, though not too often."""
        if len(run.rounds) != self._drawn and (self._throttle.due or at_once):
            with self._throttle.measured():
                self._charts = {
                    section.key: self._sections.draw_section(section)
                    for section in single.sections_of(run)
                    if section.key != "replies"  # the page lists them by itself
                }
            self._drawn = len(run.rounds)
        return self._charts
