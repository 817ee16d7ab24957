"""``augflower stop``: end a run early; what it reached is kept, and it can go on later."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from common.errors import RunError
from deploy.connection import Certificates, Insecure, Kit, SuperLink, connected
from deploy.follow import Run, run_number
from deploy.run_folder import find_run, writer

TIMEOUT = 60.0
"""Seconds that a run may take to end; it finishes what it writes."""
_POLL = 0.2


def stop(
    run: Run,
    kit: Kit = None,
    superlink: SuperLink = None,
    root_certificates: Certificates = None,
    insecure: Insecure = False,
) -> None:
    """End a run early: a simulation on this machine or, with --kit or --superlink, a fleet's.

    augflower resume goes on with it.
    """
    if kit or superlink or root_certificates or insecure:
        number = run_number(run)
        with connected(kit, superlink, root_certificates, insecure) as control:
            if (before := control.status(number)).finished:
                raise RunError(f"run {run} is over already: {before.result}")
            control.stop(number)
        print(f"stopped {run}")
        return
    folder = find_run(run)
    stop_here(folder)
    print(f"stopped; go on with: augflower resume {folder}")


def stop_here(folder: Path) -> None:
    """End a simulation whose process is on this machine.

    Raises
    ------
    RunError: it does not run, or not here, or is of a fleet.
    """
    from server_app.runs.record import read_meta
    from server_app.transport.in_process import RUN

    meta = read_meta(folder)
    if meta.status != "running":
        raise RunError(f"{folder} is over already: {meta.status}")
    if meta.flower_run != RUN:
        raise RunError(f"{folder} is a run of a fleet: give --kit with the server's kit")
    process = writer(folder)
    if process is None:
        raise RunError(f"this system does not say which process writes {folder}: use Ctrl-C there")
    if process == 0:
        raise RunError(
            f"no process of this machine writes {folder}: it was killed, or goes on elsewhere"
        )
    try:
        os.kill(process, signal.SIGTERM)
    except OSError as error:
        raise RunError(f"process {process} cannot be ended: {error.strerror}") from None
    end = time.monotonic() + TIMEOUT
    while read_meta(folder).status == "running":
        if time.monotonic() > end:
            raise RunError(
                f"process {process} was asked to end and has not in {TIMEOUT:.0f} s; "
                f"it can be killed: kill -9 {process}"
            )
        time.sleep(_POLL)
