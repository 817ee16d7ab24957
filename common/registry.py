"""A method is a file, or the entry point of an installed package; it is imported when first used.

A package's entry point in the group ``augflower.methods`` names a package with the modules
``contract``, ``client`` and ``server``, which are what ``common.methods``, ``client_app.methods``
and the server's half hold for AugFlower's own. A method without clients has only the last.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.util import find_spec
from types import ModuleType

from common import extensions
from common.errors import SettingsError

_PARTS = {"common": "contract", "client_app": "client"}


def names(package: ModuleType) -> list[str]:
    """The methods in a package, by the listing of its folder, and those of installed packages."""
    own = {module.name for module in pkgutil.iter_modules(package.__path__)}
    part = _part(package)
    return sorted(own | {name for name in extensions.added("methods") if _has(name, part)})


def load(package: ModuleType, name: str) -> ModuleType:
    """Import one method.

    Raises
    ------
    SettingsError: there is no such method; the message lists those that are.
    """
    known = names(package)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"unknown method {name!r}; there are {', '.join(known)}{hint}")
    if find_spec(f"{package.__name__}.{name}"):  # a package takes no name of AugFlower's own
        return importlib.import_module(f"{package.__name__}.{name}")
    return importlib.import_module(f"{extensions.added('methods')[name].value}.{_part(package)}")


def _part(package: ModuleType) -> str:
    return _PARTS.get(package.__name__.partition(".")[0], "server")


@cache
def _has(name: str, part: str) -> bool:
    extensions.load("methods", name)  # says which package is broken
    return find_spec(f"{extensions.added('methods')[name].value}.{part}") is not None
