"""What the live page's server answers."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from server_app.monitoring.board import Board
from server_app.monitoring.guard import Guard, content_policy
from server_app.monitoring.metrics import make_registry
from server_app.monitoring.status import Status
from server_app.place import Place
from server_app.report.templates import LIBRARY, library

SCRIPTS = "'self' 'unsafe-inline'"
"""Where the scripts of a report come from: itself, and the file that reports share."""


async def drawing(request: Request) -> Response:
    """The script that draws charts."""
    kept = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return Response(str(library()), media_type="text/javascript", headers=kept)


def make_app(status: Status, runs: Path, place: Place) -> ASGIApp:
    """The application that shows a status.

    It is to be driven by one event loop: all drawing happens in the loop's thread.

    Parameters
    ----------
    runs: folder that holds the runs' folders, where the report is.
    place: tells whether a token is needed.
    """
    board = Board(status, runs)
    registry = make_registry(status)
    server = secrets.token_hex(8)  # a page that was loaded from another process reloads itself

    async def live(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        html = board.render(server=server, nonce=nonce)
        policy = content_policy(f"'nonce-{nonce}'")
        return HTMLResponse(html, headers=private(policy))

    async def parts(request: Request) -> Response:
        since = request.query_params.get("since", "-1")
        if not re.fullmatch(r"-?[0-9]{1,18}", since):
            return PlainTextResponse("since is a version, a number of at most 18 digits.\n", 400)
        page, known = board.look(), int(since)
        changed = {key: part.html for key, part in page.parts.items() if part.version > known}
        return JSONResponse(
            {
                "server": server,
                "version": page.version,
                "now": time.time(),
                "title": page.title,
                "ended": page.ended,
                "order": list(page.parts),
                "parts": changed,
            },
            headers=private(),
        )

    async def report(request: Request) -> Response:
        board.look()
        path = board.folder / "report.html" if board.folder else None
        if path is None or not path.is_file():
            return PlainTextResponse("There is no report yet.\n", 404)
        return FileResponse(path, headers=private(content_policy(SCRIPTS)))

    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind} | private())

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        phase = status.snapshot(skip=1 << 62)["phase"]
        ready = phase not in {"waiting", "failed", "stopped"}
        return PlainTextResponse(f"{phase}\n", 200 if ready else 503)

    routes = [
        Route("/", live),
        Route(f"/{LIBRARY}", drawing),
        Route("/parts", parts),
        Route("/report/", report),  # its script is one folder up
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]
    shown = GZipMiddleware(Starlette(routes=routes), minimum_size=2048, compresslevel=5)
    return Guard(shown, place, lambda wrong: board.render_login(wrong=wrong))


def private(policy: str = "") -> dict[str, str]:
    """Headers of an answer that nobody keeps, with its Content-Security-Policy if it is a page."""
    headers = {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return headers | ({"Content-Security-Policy": policy} if policy else {})
