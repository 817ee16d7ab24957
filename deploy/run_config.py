"""The run config: defaults of all public settings."""

from __future__ import annotations

from typing import Any

import server_app.methods
from common import registry
from common.config import RunSettings, defaults
from server_app.knowledge.opening import KnowledgeSettings


def default_config() -> dict[str, Any]:
    """Dotted name -> default of every public setting, methods included."""
    config = defaults(RunSettings)
    for name in registry.names(server_app.methods):
        half = registry.load(server_app.methods, name)
        config |= {f"{name}.{key}": value for key, value in defaults(half.Settings).items()}
    return config | {f"knowledge.{k}": v for k, v in defaults(KnowledgeSettings).items()}


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
