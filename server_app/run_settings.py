"""The whole run config, checked: the run's settings, the method's and those of R_h."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import server_app.methods
from common import registry
from common.config import RunSettings, other_sections, read_run_config, read_section
from common.errors import SettingsError
from server_app.knowledge.opening import KnowledgeSettings
from server_app.method import MethodSettings


def read_settings(
    config: Mapping[str, Any],
) -> tuple[RunSettings, MethodSettings, KnowledgeSettings]:
    """Validate the whole run config: the run's settings, the method's and those of R_h.

    Raises
    ------
    SettingsError: a key or section is unknown, of the wrong type or out of bounds.
    """
    methods = registry.names(server_app.methods)
    sections = {*methods, "knowledge"}
    if unknown := sorted(other_sections(config) - sections):
        raise SettingsError(
            f"unknown section {unknown[0]!r} in the run config; there are "
            + ", ".join(sorted({"data", "evaluation", "round"} | sections))
        )
    settings = read_run_config(config, sections)
    options = {}
    for name in methods:
        # Sections of other methods are checked as well: a typo there is still a typo.
        half = registry.load(server_app.methods, name)
        options[name] = read_section(half.Settings, config, name)
    if settings.method not in options:
        registry.load(server_app.methods, settings.method)
    return settings, options[settings.method], read_section(KnowledgeSettings, config, "knowledge")
