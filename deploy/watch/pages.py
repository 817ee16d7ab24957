"""What the page of all runs answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from common.errors import AugFlowerError
from deploy.research.runs import cell, row_of
from server_app.monitoring.board import FOLDER
from server_app.monitoring.guard import Guard, content_policy
from server_app.monitoring.pages import SCRIPTS, drawing, private
from server_app.place import Place
from server_app.report.templates import LIBRARY, environment
from server_app.runs.folder import META, RECORD
from server_app.runs.record import read_meta

REFRESH = 5  # seconds between reloads of the list
REPORT = "report.html"
_OWN = Path(__file__).parent

Row = dict[str, Any]


def make_app(runs: Path, place: Place) -> ASGIApp:
    """The application that lists the runs in a folder and shows the report of each.

    Parameters
    ----------
    place: tells whether a token is needed.
    """
    templates, rows = environment(FOLDER, _OWN), _Rows(runs)

    def listing(request: Request) -> Response:
        page = templates.get_template("runs.html.j2")
        html = page.render(rows=rows.read(), folder=runs, refresh=REFRESH)
        return HTMLResponse(html, headers=private(content_policy()))

    def report(request: Request) -> Response:
        name = request.path_params["name"]
        path = runs / name / REPORT
        if name.startswith(".") or not (runs / name / META).is_file() or not path.is_file():
            return PlainTextResponse("There is no such report.\n", 404)
        return FileResponse(path, headers=private(content_policy(SCRIPTS)))

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    routes = [
        Route("/", listing), Route("/runs/{name}", report), Route(f"/{LIBRARY}", drawing),
        Route("/healthz", healthz),
    ]  # fmt: skip
    login = templates.get_template("login.html.j2")
    return Guard(Starlette(routes=routes), place, lambda wrong: login.render(wrong=wrong))


class _Rows:
    """The rows of the list; a run is read anew only when its files have changed."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known: dict[Path, tuple[list[int], Row]] = {}

    def read(self) -> list[Row]:
        """One row for each run, the newest first."""
        known = {}
        for path in self._runs.glob(f"*/{META}"):
            state = [_changed(path), _changed(path.with_name(RECORD))]
            state.append(_changed(path.with_name(REPORT)))
            old = self._known.get(path)
            known[path] = old if old and old[0] == state else (state, _shown(path.parent))
        self._known = known
        rows = [row for _, row in known.values()]
        return sorted(rows, key=lambda row: (row["started"], row["run"]), reverse=True)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _shown(folder: Path) -> Row:
    row, page = row_of(folder, ()), ""
    if row["status"] == "running":
        try:
            page = read_meta(folder).page
        except AugFlowerError:  # it is being replaced
            page = ""
    row["round"] = "–" if row["round"] is None else f"{row['round']} of {row['rounds']}"
    shown = {name: "–" if value is None else cell(name, value) for name, value in row.items()}
    live = page if page.startswith("http://") else ""
    return shown | {"reported": (folder / REPORT).is_file(), "page": live}
