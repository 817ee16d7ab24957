"""A method is a file: its name is the registration, and it is imported when first used."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from common.errors import SettingsError


def names(package: ModuleType) -> list[str]:
    """The methods in a package, by the listing of its folder."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


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
    return importlib.import_module(f"{package.__name__}.{name}")
