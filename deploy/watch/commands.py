"""``augflower watch``: the reports of all runs in a folder, also after they have ended."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Annotated

import typer

from common.errors import SettingsError


def watch(
    folder: Annotated[Path, typer.Argument(help="That holds the runs' folders.")] = Path("runs"),
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where; beyond this machine it needs a token.")
    ] = "127.0.0.1:8090",
) -> None:
    """Serve a page that lists runs, with the report of each and the live page of those running.

    The token is that of the live page: AUGFLOWER_WATCH_TOKEN or AUGFLOWER_WATCH_TOKEN_FILE.
    """
    from deploy.watch.pages import make_app
    from server_app.monitoring.server import Served
    from server_app.place import read_place

    token = os.environ.get("AUGFLOWER_WATCH_TOKEN", "")
    place = read_place(listen, token, os.environ.get("AUGFLOWER_WATCH_TOKEN_FILE", ""), "--listen")
    if place is None:
        raise SettingsError("--listen: give an address, such as 127.0.0.1:8090")
    try:
        served = Served(make_app(folder, place), place)
    except OSError as error:
        raise SettingsError(
            f"--listen: {listen} cannot be used ({error.strerror or error}); give another port"
        ) from None
    print(f"the runs in {folder} are at {served.where}, until Ctrl-C", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    served.close()
