"""Settings as they are given on a command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from common.errors import SettingsError


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``["rounds=3", "data.name=digits"]`` as typed values; strings need no quotes.

    Raises
    ------
    SettingsError: one has no equals sign.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"{text!r} is no setting: write key=value, such as rounds=20")
        try:
            values[key.strip()] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = value.strip()
    return values
