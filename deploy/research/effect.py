"""Settings that were given and that a run never reads: a typo of thought, told before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from common.config import PARTITIONS, PFLLIB, Partition, RunSettings
from deploy.run_config import default_config
from server_app.app import read_settings
from server_app.knowledge.settings import KnowledgeSettings
from server_app.method import MethodSettings

_CUT: Set[Partition] = set(PARTITIONS) - PFLLIB - {"natural"}
_BY_PARTITION: dict[str, Set[Partition]] = {
    "data.dirichlet-alpha": {"dirichlet", "pfllib-dirichlet"},
    "data.classes-per-client": {"pathological", "pfllib-pathological"},
    "data.samples-min": _CUT,
    "data.samples-max": _CUT,
}
_DEALT = ("data.partition", *_BY_PARTITION)


def without_effect(given: Mapping[str, Any]) -> list[str]:
    """One sentence for each setting that differs from its default and changes nothing.

    Parameters
    ----------
    given: public settings by dotted name, beside the defaults.

    Raises
    ------
    SettingsError: a setting is wrong.
    """
    config = default_config()
    changed = {key: value for key, value in given.items() if config.get(key) != value}
    settings, options, knowledge = read_settings(config | changed)
    return [
        f"{key}={value} has no effect: {reason}"
        for key, value in changed.items()
        for reason in _reasons(key, settings, options, knowledge)
    ]


def _reasons(
    key: str, settings: RunSettings, options: MethodSettings, knowledge: KnowledgeSettings
) -> Iterator[str]:
    section, dot, name = key.partition(".")
    data = settings.data
    if section == "knowledge":
        field = next(f for n, f in KnowledgeSettings.model_fields.items() if (f.alias or n) == name)
        if not options.uses_knowledge:
            yield f"{settings.method} transfers no knowledge with these settings"
        elif not knowledge.crd and (field.description or "").startswith("CRD:"):
            yield "knowledge.crd is 0"
    elif dot and section not in RunSettings.model_fields and section != settings.method:
        yield f"the method is {settings.method}"
    elif data.name == "folder":
        if key in _DEALT:
            yield "devices bring their own images"
    elif key == "data.class-names":
        yield f"the classes are those of {data.name}"
    elif key in _BY_PARTITION and data.partition not in _BY_PARTITION[key]:
        tasks = key == "data.classes-per-client" and options.uses_knowledge and knowledge.tasks
        if not tasks:
            yield f"data.partition is {data.partition}"
