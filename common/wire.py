"""Contract <-> Flower records: the only message format, and it refuses what does not fit.

A contract is a frozen dataclass (``common/contract.py``). Its plain fields travel in one
``ConfigRecord``, those of nested settings under dotted names; each field of named tensors travels
as one flat array a dtype (Flower pays several round trips for every array)
with names, shapes and dtypes beside it. ``unpack`` trusts nothing: sizes, names, types and
finiteness are checked before a contract exists, and every error names the field.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import BaseModel

from common.config import parse
from common.contract import Between
from common.errors import SettingsError, WireError
from common.tensors import Spec, Tensors

Contract = TypeVar("Contract")

VERSION = 2
"""Of this format. Both sides must agree; it is checked in every message."""

PLAIN = "fields"
STORAGE = "flat-little-endian"
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
MAX_NAMES = 100_000
MAX_AXES = 32


def pack(message: object, shared: dict[int, ArrayRecord] | None = None) -> RecordDict:
    """Turn a contract into records.

    Parameters
    ----------
    shared: arrays already packed, by identity; lets one model go to many nodes as one object.

    Raises
    ------
    WireError: a field holds what its type does not allow.
    """
    kind = type(message)
    plain: dict[str, Any] = {"wire-version": VERSION, "contract": _title(kind)}
    record = RecordDict()
    for name, (hint, optional) in _hints(kind).items():
        value = getattr(message, name)
        if value is None and optional:
            continue
        _check(value, hint, _Place(_title(kind), name))
        if hint is Tensors:
            _pack_tensors(record, name, value, shared)
        elif _nests(hint):
            inner = value.model_dump(by_alias=True)
            plain |= {f"{name}.{key}": part for key, part in inner.items()}
        else:
            plain[name] = value
    record[PLAIN] = ConfigRecord(plain)
    return record


def unpack(kind: type[Contract], record: RecordDict) -> Contract:
    """Turn records into a contract; array data is not copied.

    Raises
    ------
    WireError: another version or contract, a missing or unknown field, or one that does not fit.
    """
    title = _title(kind)
    plain = dict(record.config_records.get(PLAIN, {}))
    if (version := plain.pop("wire-version", None)) != VERSION:
        raise WireError(
            f"{title}: the sender speaks wire version {_short(version)}, this side {VERSION}; "
            "install the same release of AugFlower on both",
            "wire-version",
        )
    if (sent := plain.pop("contract", None)) != title:
        raise WireError(f"{title}: got {_short(sent)} instead", "contract")
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for name, (hint, optional) in hints.items():
        where = _Place(title, name)
        if _nests(hint):
            present = any(key.startswith(f"{name}.") for key in plain)
        else:
            present = name in (record.array_records if hint is Tensors else plain)
        if not present:
            if not optional:
                raise where.wrong("missing")
            values[name] = None
        elif _nests(hint):
            values[name] = _unpack_nested(hint, plain, where)
        elif hint is Tensors:
            values[name] = _unpack_tensors(record, name, where)
        else:
            values[name] = plain.pop(name)
            _check(values[name], hint, where)
            _check_bounds(values[name], hint, where)
    tensors = tensor_fields(kind)
    expected = tensors | {_specs(name) for name in tensors} | {PLAIN}
    if unknown := sorted(set(plain) | (set(record) - expected)):
        raise _Place(title, unknown[0][:80] or "(no name)").wrong("no such field")
    return kind(**values)


def parts(message: object) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """A contract as groups of tensors and JSON-able notes, for a file."""
    groups = {name: getattr(message, name) for name in tensor_fields(type(message))}
    plain = pack(message).config_records[PLAIN]
    return {n: group for n, group in sorted(groups.items()) if group is not None}, dict(plain)


def from_parts(
    kind: type[Contract], groups: Mapping[str, Tensors], notes: Mapping[str, Any]
) -> Contract:
    """What ``parts`` took apart.

    Raises
    ------
    WireError: it is another contract, or one of another release.
    """
    record = RecordDict({PLAIN: ConfigRecord(dict(notes))})
    for name, tensors in groups.items():
        _pack_tensors(record, name, tensors, None)
    return unpack(kind, record)


def size(record: RecordDict) -> int:
    """Bytes of the array data in a message: what a model costs to send."""
    return sum(len(a.data) for r in record.array_records.values() for a in r.values())


def tensor_fields(kind: type) -> set[str]:
    """Names of the fields of a contract that hold tensors."""
    return {name for name, (hint, _) in _hints(kind).items() if hint is Tensors}


_HINTS: dict[type, dict[str, tuple[Any, bool]]] = {}


def _hints(kind: type) -> dict[str, tuple[Any, bool]]:
    """Field name -> its type without ``None``, and whether ``None`` is allowed; read once."""
    if kind not in _HINTS:
        _HINTS[kind] = _read_hints(kind)
    return _HINTS[kind]


def _read_hints(kind: type) -> dict[str, tuple[Any, bool]]:
    hints = get_type_hints(kind, include_extras=True)
    result = {}
    for field in fields(kind):
        hint, optional = hints[field.name], False
        if get_origin(hint) in (Union, types.UnionType):
            options = [option for option in get_args(hint) if option is not type(None)]
            if len(options) != 1:
                raise TypeError(f"{_title(kind)}.{field.name}: a field has one type, or None")
            hint, optional = options[0], True
        result[field.name] = (hint, optional)
    return result


def _title(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _specs(name: str) -> str:
    return f"{name}.specs"


class _Place(NamedTuple):
    """A field of a contract, for messages."""

    title: str
    field: str
    position: str = ""

    def wrong(self, text: str, value: Any = None, most: float = sys.float_info.max) -> WireError:
        """The error; with a value, it says whether that is more than ``most``, or not finite."""
        excessive = type(value) is float and not value <= most
        where = f"{self.title}.{self.field}{self.position}"
        return WireError(f"{where}: {text}", self.field, excessive)


def _short(value: object) -> str:
    """A foreign value for a message: it may be megabytes long."""
    return repr(value[:80] if isinstance(value, str | bytes | list) else value)[:200]


def _nests(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _unpack_nested(hint: type[BaseModel], plain: dict[str, Any], where: _Place) -> BaseModel:
    prefix = f"{where.field}."
    inner = {k.removeprefix(prefix): plain.pop(k) for k in list(plain) if k.startswith(prefix)}
    known = [field.alias or name for name, field in hint.model_fields.items()]
    for key in known:
        if key not in inner:
            raise where._replace(position=f".{key}").wrong("missing")
    if unknown := sorted(inner.keys() - known):
        raise where._replace(position=f".{unknown[0][:80]}").wrong("no such field")
    try:
        return parse(hint, inner, prefix)
    except SettingsError as error:
        raise where.wrong(str(error)[:300]) from None


def _check(value: Any, hint: Any, where: _Place) -> None:
    if get_origin(hint) is list:
        if not isinstance(value, list):
            raise where.wrong(f"expected a list, got {type(value).__name__}")
        (item,) = get_args(hint)
        for position, element in enumerate(value):
            if problem := _problem(element, item):
                place = where._replace(position=f"{where.position}[{position}]")
                raise place.wrong(problem, element)
    elif problem := _problem(value, hint):
        raise where.wrong(problem, value)


def _problem(value: Any, hint: Any) -> str:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]  # ``_check_bounds`` finds what is not finite
        return "" if type(value) is hint else _problem(value, hint)
    if get_origin(hint) is Literal:
        options = get_args(hint)
        fits = any(type(value) is type(option) and value == option for option in options)
        return "" if fits else f"is {_short(value)}, must be one of {options}"
    if type(value) is not hint:  # bool is an int to isinstance, but not on the wire
        return f"expected {hint.__name__}, got {type(value).__name__}"
    if hint is float and not math.isfinite(value):
        return f"is {value}, must be finite"
    return ""


def _check_bounds(value: Any, hint: Any, where: _Place) -> None:
    """On arrival alone: a device whose loss has grown beyond all bounds may say so."""
    if get_origin(hint) is list:
        for position, element in enumerate(value):
            _check_bounds(element, get_args(hint)[0], where._replace(position=f"[{position}]"))
    for rule in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(rule, Between) and not rule.low <= value <= rule.high:
            possible = f"is {value:g}; {rule.low:g} to {rule.high:g} are possible"
            told = possible if math.isfinite(value) else f"is {value}, must be finite"
            raise where.wrong(told, value, rule.high)


def _pack_tensors(
    record: RecordDict, name: str, tensors: Tensors, shared: dict[int, ArrayRecord] | None
) -> None:
    arrays = shared.get(id(tensors)) if shared is not None else None
    if arrays is None:
        arrays = ArrayRecord({d: _array(d, v) for d, v in tensors.vectors.items()})
        if shared is not None:
            shared[id(tensors)] = arrays
    record[name] = arrays
    record[_specs(name)] = ConfigRecord(
        {
            "names": [spec[0] for spec in tensors.specs],
            "shapes": ["x".join(map(str, spec[1])) for spec in tensors.specs],
            "dtypes": [spec[2] for spec in tensors.specs],
        }
    )


def _array(dtype: str, vector: np.ndarray[Any, np.dtype[Any]]) -> Array:
    data = np.ascontiguousarray(vector).astype(vector.dtype.newbyteorder("<"), copy=False)
    return Array(dtype, (vector.size,), STORAGE, data.tobytes())


def _unpack_tensors(record: RecordDict, name: str, where: _Place) -> Tensors:
    specs = _unpack_specs(record, name, where)
    needed: dict[str, int] = {}
    for _, shape, dtype in specs:
        needed[dtype] = needed.get(dtype, 0) + math.prod(shape)
    arrays = record.array_records[name]
    if set(arrays) != set(needed):
        raise where.wrong(
            f"has dtypes {_short(sorted(arrays)[:8])}, its specs say {sorted(needed)}"
        )
    vectors: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    for dtype, array in arrays.items():
        count = needed[dtype]
        kind = np.dtype(dtype).newbyteorder("<")
        if array.stype != STORAGE or array.dtype != dtype or tuple(array.shape) != (count,):
            raise where.wrong(
                f"{_short(array.dtype)} {_short(tuple(array.shape)[:8])} stored as "
                f"{_short(array.stype)}; expected {dtype} ({count},) stored as {STORAGE!r}"
            )
        if len(array.data) != count * kind.itemsize:
            raise where.wrong(
                f"{len(array.data)} bytes of {dtype}, expected {count * kind.itemsize}"
            )
        vectors[dtype] = np.frombuffer(array.data, kind)
    return Tensors(specs, vectors)


def _unpack_specs(record: RecordDict, name: str, where: _Place) -> tuple[Spec, ...]:
    columns = record.config_records.get(_specs(name))
    if columns is None or set(columns) != {"names", "shapes", "dtypes"}:
        raise where.wrong("names, shapes and dtypes are missing")
    names, shapes, dtypes = (columns[key] for key in ("names", "shapes", "dtypes"))
    for column in (names, shapes, dtypes):
        if not isinstance(column, list):
            raise where._replace(position=".specs").wrong(
                f"expected a list, got {type(column).__name__}"
            )
    return _read_specs(tuple(names), tuple(shapes), tuple(dtypes), where)  # type: ignore[arg-type]


@lru_cache(maxsize=8)  # all replies of a run name the same tensors
def _read_specs(
    names: tuple[Any, ...], shapes: tuple[Any, ...], dtypes: tuple[Any, ...], where: _Place
) -> tuple[Spec, ...]:
    for column in (names, shapes, dtypes):
        _check(list(column), list[str], where._replace(position=".specs"))
    if not len(names) == len(shapes) == len(dtypes) <= MAX_NAMES:
        raise where.wrong("names, shapes and dtypes differ in number, or are too many")
    if len(set(names)) != len(names):
        raise where.wrong("a name occurs twice")
    specs = []
    for tensor, shape, dtype in zip(names, shapes, dtypes, strict=True):
        sizes = shape.split("x") if shape else []
        numbers = all(part.isascii() and part.isdigit() and len(part) < 12 for part in sizes)
        if not numbers or len(sizes) > MAX_AXES:
            raise where.wrong(f"{tensor[:80]} has shape {shape[:80]!r}")
        if dtype not in DTYPES:
            raise where.wrong(f"{tensor[:80]} has dtype {dtype[:20]!r}")
        specs.append((tensor, tuple(int(part) for part in sizes), dtype))
    return tuple(specs)
