"""What an object declares that survives a round, written out and taken up again.

    class Server(Averaging):
        control: Saved[Tensors]

An attribute annotated so is part of every checkpoint. It may be ``Tensors``, a NumPy array, a
dictionary of one of them, anything that JSON holds, an object that declares attributes of its own,
or None. Such values are replaced, never changed in place, so that an older state stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import TypeAdapter

from common.tensors import Tensors

T = TypeVar("T")
_MARK = "saved"
Saved = Annotated[T, _MARK]
"""Annotation of an attribute that survives a round."""

State = tuple[dict[str, Tensors], dict[str, Any]]
"""Named tensors and JSON-able notes."""

_ARRAY = "array"


def save(thing: object) -> State:
    """All declared attributes of ``thing``; those of an object within it are named with a dot."""
    groups: dict[str, Tensors] = {}
    notes: dict[str, Any] = {}
    for name in declared(type(thing)):
        value = getattr(thing, name)
        match value:
            case Tensors():
                groups[name] = value
            case np.ndarray():
                groups[name] = Tensors.pack({_ARRAY: value})
            case dict() if _holds_arrays(next(map(type, value.values()), None)):
                notes[name] = list(map(str, value))
                for key, part in value.items():
                    packed = part if isinstance(part, Tensors) else Tensors.pack({_ARRAY: part})
                    groups[f"{name}/{key}"] = packed
            case dict():
                notes[name] = {str(key): part for key, part in value.items()}
            case _ if declared(type(value)):
                inner, more = save(value)
                groups |= {f"{name}.{key}": part for key, part in inner.items()}
                notes |= {f"{name}.{key}": part for key, part in more.items()}
            case _:
                notes[name] = value
    return groups, notes


def load(thing: object, state: tuple[Mapping[str, Tensors], Mapping[str, Any]]) -> None:
    """Set all declared attributes of ``thing`` to what ``save`` gave.

    Raises
    ------
    KeyError: something that is declared is not there: another release has written it.
    """
    groups, notes = state
    for name, hint in declared(type(thing)).items():
        value = getattr(thing, name, None)
        if value is not None and declared(type(value)):
            within = f"{name}."
            load(value, (_below(groups, within), _below(notes, within)))
        elif name in groups:
            setattr(thing, name, _array(groups[name], hint))
        elif notes[name] is None:
            setattr(thing, name, None)
        elif get_origin(hint) is dict and _holds_arrays(get_args(hint)[1]):
            parts = {key: groups[f"{name}/{key}"] for key in notes[name]}
            key_type, part_type = get_args(hint)
            setattr(thing, name, {key_type(k): _array(p, part_type) for k, p in parts.items()})
        else:
            # JSON's keys are texts; this makes numbers of them again.
            setattr(thing, name, TypeAdapter(hint).validate_python(notes[name]))


def declared(kind: type) -> dict[str, Any]:
    """Attribute -> its type, of all that a class and its bases declare to survive."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: get_args(hint)[0]
        for name, hint in hints.items()
        if get_origin(hint) is Annotated and _MARK in get_args(hint)[1:]
    }


def _holds_arrays(kind: Any) -> bool:
    return kind is Tensors or (get_origin(kind) or kind) is np.ndarray


def _array(tensors: Tensors, hint: Any) -> Any:
    if hint is Tensors or Tensors in get_args(hint):
        return tensors
    return np.array(tensors.unpack()[_ARRAY])


def _below(values: Mapping[str, Any], within: str) -> dict[str, Any]:
    return {k.removeprefix(within): v for k, v in values.items() if k.startswith(within)}
