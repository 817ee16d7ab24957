"""The run config: defaults of all public settings, and values given on a command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

import server_app.methods
from common import registry
from common.config import RunSettings, defaults
from common.errors import SettingsError
from server_app.knowledge import KnowledgeSettings


def default_config() -> dict[str, Any]:
    """Dotted name -> default of every public setting, methods included."""
    config = defaults(RunSettings)
    for name in registry.names(server_app.methods):
        half = registry.load(server_app.methods, name)
        config |= {f"{name}.{key}": value for key, value in defaults(half.Settings).items()}
    return config | {f"knowledge.{k}": v for k, v in defaults(KnowledgeSettings).items()}


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


def to_toml(config: dict[str, Any]) -> str:
    """The run config as ``[tool.flwr.app.config]`` tables, in the order of the settings."""
    tables: dict[str, list[str]] = {}
    for key, value in config.items():
        section, _, name = key.rpartition(".")
        tables.setdefault(section, []).append(f"{name} = {_literal(value)}")
    blocks = []
    for section, lines in tables.items():
        title = f"tool.flwr.app.config.{section}".rstrip(".")
        blocks.append("\n".join([f"[{title}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    print(to_toml(default_config()), end="")
