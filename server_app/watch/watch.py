"""All that watches a run: its status, and what the server's settings ask for to show it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from server_app.settings import ServerSettings
from server_app.status import Status

if TYPE_CHECKING:
    from server_app.watch.server import LivePage
    from server_app.watch.tensorboard import TensorBoard


class Watch:
    """A status and those who follow it; may outlive its runs, until it is closed.

    Attributes
    ----------
    status: to be told what a run does.
    url: of the live page; empty where there is none.
    """

    def __init__(self, server: ServerSettings, notice: Callable[[str], None]) -> None:
        """Start what the settings ask for.

        Raises
        ------
        SettingsError: TensorBoard files are asked for and their library is not installed.
        """
        self.status = Status()
        self._followers: list[TensorBoard | LivePage] = []
        self.url = ""
        if server.tensorboard:
            from server_app.watch.tensorboard import TensorBoard

            self._followers.append(TensorBoard(self.status, server.runs, notice))
        if server.watch is not None:
            from server_app.watch.server import LivePage

            page = LivePage(self.status, server.runs, server.watch, notice)
            self._followers.append(page)
            self.url = page.url

    def close(self) -> None:
        """Stop the page, finish the files; a second time does nothing."""
        for follower in self._followers:
            follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
