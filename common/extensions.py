"""What installed packages add, without a change here: entry points of three groups.

``augflower.models``: a name and a function (classes, channels, image_size) -> ``nn.Module``.
``augflower.data``: a name and a function () -> ``common.data.own.DataSet``.
``augflower.methods``: a name and a package; ``common.registry`` says what is in it.

On a fleet the package must be installed on the devices as well: Flower sends them AugFlower alone.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from common.errors import SettingsError

PREFIX = "augflower."


@cache
def added(kind: str) -> dict[str, EntryPoint]:
    """Name -> entry point of the group ``kind``: "methods", "models" or "data"; sorted."""
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
