"""All that watches a run: its status, and what the server's settings ask for to show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from server_app.monitoring.callbacks import Callback, Follower, checked, named
from server_app.monitoring.status import Status
from server_app.settings import ServerSettings

if TYPE_CHECKING:
    from server_app.monitoring.server import LivePage


class Watch:
    """A status and those who follow it; may outlive its runs, until it is closed.

    Attributes
    ----------
    status: to be told what a run does.
    url: of the live page; empty where there is none.
    """

    def __init__(
        self,
        server: ServerSettings,
        notice: Callable[[str], None],
        callbacks: Sequence[str | Callback] | None = None,
    ) -> None:
        """Start what the settings ask for.

        Parameters
        ----------
        callbacks: by name, or objects of a program's own; without it, those of the settings.

        Raises
        ------
        SettingsError: a callback is unknown, or its library is not installed or not set up.
        """
        self.status = Status()
        self.url = ""
        chosen = server.callbacks if callbacks is None else callbacks
        told = [named(one) if isinstance(one, str) else checked(one) for one in chosen]
        self._followers = [Follower(one, self.status, server.runs, notice) for one in told]
        self._page: LivePage | None = None
        if server.watch is not None:
            from server_app.monitoring.server import LivePage

            self._page = LivePage(self.status, server.runs, server.watch, notice)
            self.url = self._page.url

    def finish(self) -> None:
        """Tell the callbacks what is left, and end them; the page stays."""
        for follower in self._followers:
            follower.close()

    def close(self) -> None:
        """End the callbacks and the page; a second time does nothing."""
        self.finish()
        if self._page is not None:
            self._page.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
