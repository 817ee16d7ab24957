"""``augflower label``: a page on which the owner sorts images that were put aside into classes."""

from __future__ import annotations

import hmac
import secrets
import shutil
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from common.data.image_files import list_images
from common.errors import DataError
from deploy.serving.pages import HOSTS, loopback

MOST = 60  # images on a page
_LONGEST_FORM = 4096  # bytes
_POLICY = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


def make_app(folder: Path, into: Path) -> ASGIApp:
    """The application that shows the images in ``folder`` and moves them to classes in ``into``.

    Raises
    ------
    DataError: ``into`` has no subfolder.
    """
    classes = _classes(into)
    if not classes:
        raise DataError(f"{into} has no subfolders; make one for each class, named after it")
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("label.html.j2")
    # A website that the owner visits meanwhile can send forms here, but does not know this.
    token = secrets.token_urlsafe(16)

    def listing(request: Request) -> Response:
        names = [path.name for path in _images(folder)[:MOST]]
        html = template.render(images=names, classes=_classes(into), into=into, token=token)
        return HTMLResponse(html, headers=_POLICY)

    def image(request: Request) -> Response:
        path = folder / request.path_params["name"]
        if path not in _images(folder):
            return PlainTextResponse("There is no such image.\n", 404)
        return FileResponse(path, headers=_POLICY)

    async def label(request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _LONGEST_FORM:
                return PlainTextResponse("The form is too long.\n", 413)
        form = {key: value[0] for key, value in parse_qs(body.decode(), True).items()}
        if not hmac.compare_digest(form.get("token", "").encode(), token.encode()):
            return PlainTextResponse("This form is not of this page.\n", 403)
        path, wanted = folder / form.get("image", ""), form.get("class", "")
        if path in _images(folder):
            if not wanted:
                path.unlink()
            elif wanted in _classes(into):
                shutil.move(path, into / wanted / path.name)
            else:
                return PlainTextResponse("There is no such class.\n", 400)
        return RedirectResponse("/", 303)

    routes = [
        Route("/", listing),
        Route("/image/{name}", image),
        Route("/label", label, methods=["POST"]),
    ]
    known = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    return Starlette(routes=routes, middleware=[known])


def label(folder: Path, into: Path, listen: str) -> None:
    """Serve the page until Ctrl-C."""
    host, port = loopback(listen)
    app = make_app(folder, into)
    print(f"the images in {folder} are at http://{host}:{port}, until Ctrl-C", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


def _images(folder: Path) -> list[Path]:
    return list_images(folder) if folder.is_dir() else []


def _classes(into: Path) -> list[str]:
    if not into.is_dir():
        return []
    inside = (path for path in into.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path.name for path in inside)
