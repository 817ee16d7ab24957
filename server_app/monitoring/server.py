"""Serves the live page from a thread of the server's process, beside the round loop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from server_app.monitoring.connections import BoundedProtocol
from server_app.monitoring.pages import make_app
from server_app.monitoring.status import Status
from server_app.place import Place

Notice = Callable[[str], None]
_START, _STOP = 5.0, 3.0  # seconds


class Served:
    """An application that is served from a thread until it is closed or the process ends.

    Attributes
    ----------
    url: where it is.
    where: the same, for people.
    """

    def __init__(self, app: ASGIApp, place: Place) -> None:
        """Serve it.

        Raises
        ------
        OSError: the address cannot be used.
        """
        listening = _listen(place)
        host, port = listening.getsockname()[:2]
        config = uvicorn.Config(
            app,
            http=BoundedProtocol, ws="none", loop="asyncio", lifespan="off", interface="asgi3",
            log_config=None, access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="live page", daemon=True
        )
        self._thread.start()
        end = time.monotonic() + _START
        while not self._server.started and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{port}/"
        token = ", which asks for the token" if place.token else ""
        # Of all addresses of a machine none is known by which the reader reaches it.
        where = f"port {port} of the server" if host in ("0.0.0.0", "::") else self.url
        self.where = f"{where}{token}"

    def close(self) -> None:
        """Stop serving; a second time does nothing."""
        self._server.should_exit = True
        self._thread.join(_STOP)


class LivePage:
    """The page of one status; stays until it is closed or the process ends."""

    def __init__(self, status: Status, runs: Path, place: Place, notice: Notice) -> None:
        """Serve the page; where that cannot be done ``notice`` says why, and the run goes on.

        Parameters
        ----------
        runs: folder that holds the runs' folders.
        """
        self._served: Served | None = None
        try:
            self._served = Served(make_app(status, runs, place), place)
        except OSError as error:
            notice(
                f"no live page, the run goes on: {place.host}:{place.port} cannot be used "
                f"({error.strerror or error}); set AUGFLOWER_WATCH to a free port"
            )
            return
        status.page = self._served.url
        notice(f"watch the run at {self._served.where}")

    @property
    def url(self) -> str:
        """Where the page is; empty where it could not be served."""
        return self._served.url if self._served else ""

    def close(self) -> None:
        """Stop serving; a second time does nothing."""
        if self._served:
            self._served.close()


def _listen(place: Place) -> socket.socket:
    """A listening socket, of IPv6 where the host is."""
    family, _, _, _, address = socket.getaddrinfo(
        place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family)
