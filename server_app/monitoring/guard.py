"""Who may see the page: those who know the token, or this machine alone."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server_app.place import Place, is_loopback

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no token, for they say nothing about a run."""
LOGIN = "/login"
_READ_BY_PROGRAMS = frozenset({"/metrics", "/parts"})
_WRONG_TOKEN_DELAY = 1.0  # seconds
_LONGEST_FORM = 4096  # bytes
_WEEK = 7 * 24 * 3600  # seconds
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Around an application: lets requests through, or answers them itself.

    With a token, a request brings it in the header ``Authorization: Bearer``, or brings the cookie
    that is given to who sends it in a form; it is never in an address, which would be logged.
    Without one the page is on loopback, and only names of this machine are answered: otherwise any
    website could have its own name point here and read along.
    """

    def __init__(self, app: ASGIApp, place: Place, login_page: Callable[[bool], str]) -> None:
        """Guard ``app``; ``login_page(wrong)`` is what asks for the token, once more if wrong."""
        self._app = app
        self._place = place
        self._login_page = login_page
        key = place.token.encode()
        self._cookie = hmac.new(key, b"cookie of the live page", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if answer := await self._refusal(request):
            answer.headers.update(_HEADERS)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        if path in OPEN:
            return None
        if not self._place.token:
            if is_local(request.headers.get("host", "")):
                return None
            text = "This page is for this machine alone: use 127.0.0.1 or localhost.\n"
            return PlainTextResponse(text, 403)
        if path == LOGIN and request.method == "POST":
            return await self._log_in(request)
        scheme, _, told = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(told, self._place.token):
            return None
        if _same(request.cookies.get(self._cookie_name(request), ""), self._cookie):
            return None
        if path in _READ_BY_PROGRAMS:
            text = "This needs the token: send it as Authorization: Bearer TOKEN.\n"
            return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})
        return self._form(wrong=False)

    async def _log_in(self, request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _LONGEST_FORM:
                return PlainTextResponse("The form is too long.\n", 413)
        told = parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
        if not _same(told, self._place.token):
            await asyncio.sleep(_WRONG_TOKEN_DELAY)
            return self._form(wrong=True)
        answer = RedirectResponse(".", 303)
        answer.set_cookie(
            self._cookie_name(request), self._cookie, max_age=_WEEK, httponly=True,
            samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    def _form(self, *, wrong: bool) -> Response:
        return HTMLResponse(
            self._login_page(wrong), 401, {"Content-Security-Policy": content_policy()}
        )

    def _cookie_name(self, request: Request) -> str:
        """Cookies do not tell ports apart, so their names do."""
        return f"augflower-watch-{request.url.port or 0}"


def content_policy(script: str = "'none'") -> str:
    """A page's Content-Security-Policy: nothing from elsewhere, scripts from ``script`` alone."""
    return (
        f"default-src 'none'; script-src {script}; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def is_local(host: str) -> bool:
    """Whether a Host header names this machine."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _same(told: str, known: str) -> bool:
    """Compare in a time that does not depend on how much of it is right."""
    return hmac.compare_digest(told.encode(), known.encode())
