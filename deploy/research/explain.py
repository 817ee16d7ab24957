"""Every public setting with its meaning, its default and what it may be."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config import RunSettings
from common.errors import SettingsError
from deploy.research.lists import LISTS

_KINDS = {bool: "true, false", int: "integer", float: "number", str: "text"}
_SIGNS: tuple[tuple[type, str, str], ...] = (
    (Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<")
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One public setting.

    Attributes
    ----------
    name: dotted, as on a command line.
    allowed: its choices, separated by commas, or its kind and bounds.
    """

    name: str
    default: Any
    allowed: str
    meaning: str


def explained() -> dict[str, list[Setting]]:
    """Section -> its settings, in the order of the run config; the run's own under ""."""
    import server_app.methods
    from common import registry
    from server_app.knowledge.opening import KnowledgeSettings

    sections = _explain(RunSettings(), "")
    for name in registry.names(server_app.methods):
        half = registry.load(server_app.methods, name)
        sections[name] = [*chain.from_iterable(_explain(half.Settings(), name).values())]
    return sections | _explain(KnowledgeSettings(), "knowledge")


def select(what: str) -> dict[str, list[Setting]]:
    """The sections that ``what`` names: all if it is empty, one, or a single setting.

    Raises
    ------
    SettingsError: there is no such section or setting; near ones are named.
    """
    sections = explained()
    if not what:
        return sections
    if what in sections:
        return {what: sections[what]}
    names = {setting.name: section for section, group in sections.items() for setting in group}
    if what in names:
        section = names[what]
        return {section: [setting for setting in sections[section] if setting.name == what]}
    near = difflib.get_close_matches(what, [*filter(None, sections), *names], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise SettingsError(
        f"there is no section or setting {what!r}{hint} Sections: "
        f"{', '.join(section for section in sections if section)}"
    )


def _explain(settings: BaseModel, section: str) -> dict[str, list[Setting]]:
    own: list[Setting] = []
    inner: dict[str, list[Setting]] = {}
    for name, field in type(settings).model_fields.items():
        public, value = f"{section}.{field.alias or name}".lstrip("."), getattr(settings, name)
        if isinstance(value, BaseModel):
            inner |= _explain(value, public)
        else:
            own.append(Setting(public, value, _allowed(field), field.description or ""))
    return {section: own, **inner}


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(str(choice) for choice in get_args(field.annotation))
    kind = _KINDS.get(field.annotation, "") if isinstance(field.annotation, type) else ""
    bounds = [
        f"{sign} {_number(getattr(bound, attribute))}"
        for bound in field.metadata
        for of, attribute, sign in _SIGNS
        if isinstance(bound, of)
    ]
    return " ".join([kind, " and ".join(bounds)]).strip()


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


def text(sections: dict[str, list[Setting]]) -> str:
    """The settings as aligned columns, one line each: name, default, what it may be, meaning."""
    rows = [
        (setting.name, _shown(setting.default), setting.allowed, setting.meaning)
        for group in sections.values()
        for setting in group
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines: list[str] = []
    position = 0
    for group in sections.values():
        lines += [""] if lines else []
        for row in rows[position : position + len(group)]:
            cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
            lines.append("  ".join([*cells, row[3]]).rstrip())
        position += len(group)
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def complete(incomplete: str) -> list[tuple[str, str]]:
    """Settings, and after the ``=`` the choices, that begin as a word on the command line does."""
    name, equals, begun = incomplete.partition("=")
    every = {setting.name: setting for group in explained().values() for setting in group}
    if not equals:
        return [(f"{n}=", s.meaning) for n, s in every.items() if n.startswith(name)]
    choices = choices_of(name, every[name]) if name in every else []
    return [(f"{name}={choice}", "") for choice in choices if choice.startswith(begun)]


def choices_of(name: str, setting: Setting) -> list[str]:
    """Values that a setting may have, where they can be listed."""
    lists = {"method": "methods", "model": "models", "data.name": "data"}
    if name in lists:
        return [entry for entry, _ in LISTS[lists[name]]()]
    return setting.allowed.split(", ") if ", " in setting.allowed else []


def settings(
    what: Annotated[
        str, typer.Argument(metavar="[SECTION]", help="Such as data, augfl or augfl.lambda.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the public settings: default, what they may be, what they mean."""
    chosen = select(what)
    if as_json:
        values = {
            setting.name: {
                "default": setting.default, "allowed": setting.allowed, "meaning": setting.meaning
            }
            for group in chosen.values()
            for setting in group
        }  # fmt: skip
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    print(text(chosen))
