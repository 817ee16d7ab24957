"""The environment of every Flower process that AugFlower starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_QUIET = {
    # Nothing is reported to anybody, and nothing is asked of the internet.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Otherwise each run resolves and installs the app's dependencies anew, and fails offline.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
_THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def flower_environment(
    home: Path | None = None,
    threads: int | None = None,
    base: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """``base`` with what every Flower process needs.

    Parameters
    ----------
    home: Flower's own folder (FLWR_HOME): installed apps, connections; None leaves it as it is.
    threads: threads for a process's arithmetic; None leaves it as it is.
    base: what to start from.
    """
    environment = dict(base) | _QUIET
    # Flower starts its helpers by name, also when no virtual environment was activated.
    scripts = str(Path(sys.executable).parent)
    places = environment.get("PATH", os.defpath).split(os.pathsep)
    environment["PATH"] = os.pathsep.join([scripts, *(p for p in places if p != scripts)])
    if home is not None:
        environment["FLWR_HOME"] = str(home.absolute())
    if threads is not None:
        environment |= dict.fromkeys(_THREAD_COUNTS, str(threads))
    return environment
