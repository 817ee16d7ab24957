"""What installed packages add, without a change here: entry points of four groups.

``augflower.models``: a name and a function (classes, channels, image_size) -> ``nn.Module``.
``augflower.data``: a name and a function () -> ``common.data.own.DataSet``.
``augflower.methods``: a name and a package; ``common.registry`` says what is in it.
``augflower.callbacks``: a name and a function or class () -> what is told of a run; the server's.

On a fleet a package of the other three must be installed on the devices as well: Flower sends them
AugFlower alone.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from common.errors import SettingsError

PREFIX = "augflower."


@cache
def added(kind: str) -> dict[str, EntryPoint]:
    """Name -> entry point of the group ``kind``, such as "models"; sorted."""
    points = sorted(entry_points(group=PREFIX + kind), key=lambda point: point.name)
    return {point.name: point for point in points}


def load(kind: str, name: str) -> Any:
    """What an installed package gives under ``name``.

    Raises
    ------
    SettingsError: it cannot be imported.
    """
    point = added(kind)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else "an installed package"
        raise SettingsError(
            f"{name!r} of {package} ({PREFIX}{kind}) cannot be loaded: {error}; mend the package, "
            "or uninstall it"
        ) from error
