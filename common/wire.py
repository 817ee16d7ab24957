"""Contract <-> Flower records: the only message format, and it refuses what does not fit.

A contract is a frozen dataclass (``common/contract.py``). A message is one mapping of names to
plain values: its plain fields, those of nested settings under dotted names, and for each field of
named tensors ``field.names``, ``.shapes``, ``.dtypes`` and one flat vector a dtype, such as
``field.float32``. Flower pays several round trips for each record and sends equal ones once: so all
is in one ``ConfigRecord``, but for what several messages share, and vectors of more than ``PIECE``
bytes, which travel in pieces. On which records a message is spread does not matter to who reads it.
``unpack`` trusts nothing: sizes, names, types and finiteness are checked before a contract exists,
and every error names the field.
"""

from __future__ import annotations

import math
import sys
import types
from collections import Counter
from collections.abc import Mapping, Sequence
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
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError
from pydantic import BaseModel

from common.config import parse
from common.contract import Between
from common.errors import SettingsError, WireError
from common.tensors import Spec, Tensors

Contract = TypeVar("Contract")

VERSION = 3
"""Of this format. Both sides must agree; it is checked in every message."""

PLAIN = "fields"
"""Record of what is of one message alone."""
SHARED = "shared"
"""Record of what all messages that were packed together hold."""
PIECE = 8 * 2**20
"""Bytes of a vector that travel as one object, at most."""
LARGE = 2**16
"""Bytes of a vector that is worth an object of its own where some of many messages share it."""
COLUMNS = ("names", "shapes", "dtypes")
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
MAX_NAMES = 100_000
MAX_AXES = 32


def pack(message: object) -> RecordDict:
    """Turn a contract into records.

    Raises
    ------
    WireError: a field holds what its type does not allow.
    """
    return pack_all([message])[0]


def pack_all(messages: Sequence[object]) -> list[RecordDict]:
    """Turn contracts of one type into records, of which equal ones are the same objects.

    Raises
    ------
    WireError: a field holds what its type does not allow.
    """
    if not messages:
        return []
    vectors: dict[tuple[int, str], dict[str, Any]] = {}
    entries = [_entries(message, vectors) for message in messages]
    common, rest = _common(entries)
    often = Counter(id(value) for part in rest for value in part.values() if _is_large(value))
    shared = _records(SHARED, common) if len(messages) > 1 else {}
    spread: dict[int, dict[str, ConfigRecord]] = {}
    packed: list[RecordDict] = []
    for part in rest:
        own = dict(part) if len(messages) > 1 else common
        records: dict[str, Any] = dict(shared)
        for key in [key for key, value in own.items() if often[id(value)] > 1]:
            vector = own.pop(key)
            records |= spread.setdefault(id(vector), _records(key, {key: vector}))
        packed.append(RecordDict(records | _records(PLAIN, own)))
    return packed


def unpack(kind: type[Contract], record: RecordDict) -> Contract:
    """Turn records into a contract; a vector in one piece is not copied.

    Raises
    ------
    WireError: another version or contract, a missing or unknown field, or one that does not fit.
    """
    found: dict[str, Any] = {}
    for name, part in record.items():
        if not isinstance(part, ConfigRecord):
            raise _Place(_title(kind), _label(name)).wrong("no such field")
        if twice := found.keys() & part.keys():
            raise _Place(_title(kind), _label(min(twice))).wrong("occurs twice")
        found |= part
    return _decode(kind, found)


def parts(message: object) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """A contract as groups of tensors and JSON-able notes, for a file."""
    kind = type(message)
    groups = {name: getattr(message, name) for name in tensor_fields(kind)}
    plain = {
        key: value
        for key, value in _entries(message, {}).items()
        if key.partition(".")[0] not in groups
    }
    return {n: group for n, group in sorted(groups.items()) if group is not None}, plain


def from_parts(
    kind: type[Contract], groups: Mapping[str, Tensors], notes: Mapping[str, Any]
) -> Contract:
    """What ``parts`` took apart.

    Raises
    ------
    WireError: it is another contract, or one of another release.
    """
    entries = dict(notes)
    for name, tensors in groups.items():
        entries |= _pack_tensors(name, tensors)
    return _decode(kind, entries)


def to_bytes(record: RecordDict) -> bytes:
    """Records as they are, to be handed on."""
    return recorddict_to_proto(record).SerializeToString()


def from_bytes(data: bytes) -> RecordDict:
    """What ``to_bytes`` gave.

    Raises
    ------
    WireError: it is nothing of the kind.
    """
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(data))
    except (DecodeError, TypeError, ValueError, KeyError) as error:
        raise WireError(f"records cannot be read: {error}", "records") from None


def size(record: RecordDict) -> int:
    """Bytes of the vectors in a message: what a model costs to send."""
    values = (value for part in record.config_records.values() for value in part.values())
    return sum(len(value) for value in values if isinstance(value, bytes))


def _entries(message: object, vectors: dict[tuple[int, str], dict[str, Any]]) -> dict[str, Any]:
    """All that a contract holds by name; ``vectors`` keeps what was packed of tensors already."""
    kind = type(message)
    entries: dict[str, Any] = {"wire-version": VERSION, "contract": _title(kind)}
    for name, (hint, optional) in _hints(kind).items():
        value = getattr(message, name)
        if value is None and optional:
            continue
        _check(value, hint, _Place(_title(kind), name))
        if hint is Tensors:
            known = (id(value), name)
            if known not in vectors:
                vectors[known] = _pack_tensors(name, value)
            entries |= vectors[known]
        elif _nests(hint):
            inner = value.model_dump(by_alias=True)
            entries |= {f"{name}.{key}": part for key, part in inner.items()}
        else:
            entries[name] = value
    return entries


def _common(entries: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is the same everywhere, to the bit, and the rest of each."""
    first, *others = entries
    common = {
        key: value
        for key, value in first.items()
        if all(key in other and _same(value, other[key]) for other in others)
    }
    return common, [{k: v for k, v in part.items() if k not in common} for part in entries]


def _same(one: Any, other: Any) -> bool:
    if one is other or isinstance(one, bytes):
        return bool(one == other)
    return repr(one) == repr(other)  # 0.0 is not -0.0, and 1 is not True


def _records(name: str, entries: dict[str, Any]) -> dict[str, ConfigRecord]:
    """A record of that name, unless it would be empty, and one for each piece of long vectors."""
    long = {k: v for k, v in entries.items() if isinstance(v, bytes) and len(v) > PIECE}
    rest = {key: value for key, value in entries.items() if key not in long}
    records = {name: ConfigRecord(rest)} if rest else {}
    for key, data in long.items():
        for number, start in enumerate(range(0, len(data), PIECE)):
            piece = f"{key}.{number}" if number else key
            records[piece] = ConfigRecord({piece: data[start : start + PIECE]})
    return records


def _decode(kind: type[Contract], found: dict[str, Any]) -> Contract:
    """Entries by name as a contract; empties ``found``."""
    title = _title(kind)
    if (version := found.pop("wire-version", None)) != VERSION:
        raise WireError(
            f"{title}: the sender speaks wire version {_short(version)}, this side {VERSION}; "
            "install the same release of AugFlower on both",
            "wire-version",
        )
    if (sent := found.pop("contract", None)) != title:
        raise WireError(f"{title}: got {_short(sent)} instead", "contract")
    values: dict[str, Any] = {}
    for name, (hint, optional) in _hints(kind).items():
        where = _Place(title, name)
        grouped = hint is Tensors or _nests(hint)
        present = any(k.startswith(f"{name}.") for k in found) if grouped else name in found
        if not present:
            if not optional:
                raise where.wrong("missing")
            values[name] = None
        elif hint is Tensors:
            values[name] = _unpack_tensors(_taken(found, name), where)
        elif grouped:
            values[name] = _unpack_nested(hint, _taken(found, name), where)
        else:
            values[name] = found.pop(name)
            _check(values[name], hint, where)
            _check_bounds(values[name], hint, where)
    if found:
        raise _Place(title, _label(min(found))).wrong("no such field")
    return kind(**values)


def _taken(found: dict[str, Any], name: str) -> dict[str, Any]:
    """Entries of a field that has several, by the rest of their names; no longer in ``found``."""
    prefix = f"{name}."
    keys = [key for key in found if key.startswith(prefix)]
    return {key.removeprefix(prefix): found.pop(key) for key in keys}


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


def _label(name: str) -> str:
    """A foreign name of a field, for messages."""
    return name[:80] or "(no name)"


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


def _unpack_nested(hint: type[BaseModel], inner: dict[str, Any], where: _Place) -> BaseModel:
    known = [field.alias or name for name, field in hint.model_fields.items()]
    for key in known:
        if key not in inner:
            raise where._replace(position=f".{key}").wrong("missing")
    if unknown := sorted(inner.keys() - known):
        raise where._replace(position=f".{unknown[0][:80]}").wrong("no such field")
    try:
        return parse(hint, inner, f"{where.field}.")
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


def _pack_tensors(name: str, tensors: Tensors) -> dict[str, Any]:
    return {
        f"{name}.names": [spec[0] for spec in tensors.specs],
        f"{name}.shapes": ["x".join(map(str, spec[1])) for spec in tensors.specs],
        f"{name}.dtypes": [spec[2] for spec in tensors.specs],
        **{f"{name}.{dtype}": _bytes(vector) for dtype, vector in tensors.vectors.items()},
    }


def _bytes(vector: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    """Little-endian."""
    return vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()


def _is_large(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) > LARGE


def _unpack_tensors(found: dict[str, Any], where: _Place) -> Tensors:
    specs = _unpack_specs(found, where)
    needed: dict[str, int] = {}
    for _, shape, dtype in specs:
        needed[dtype] = needed.get(dtype, 0) + math.prod(shape)
    if set(DTYPES) & found.keys() != needed.keys():
        sent = sorted(set(DTYPES) & found.keys())
        raise where.wrong(f"has dtypes {sent}, its specs say {sorted(needed)}")
    vectors: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    for dtype, count in needed.items():
        kind = np.dtype(dtype).newbyteorder("<")
        data = _joined(found, dtype, where)
        if len(data) != count * kind.itemsize:
            raise where.wrong(f"{len(data)} bytes of {dtype}, expected {count * kind.itemsize}")
        vectors[dtype] = np.frombuffer(data, kind)
    if found:
        raise where._replace(position=f".{_label(min(found))}").wrong("no such field")
    return Tensors(specs, vectors)


def _joined(found: dict[str, Any], dtype: str, where: _Place) -> bytes:
    """All pieces of a vector, which are no longer in ``found`` then."""
    pieces: list[bytes] = []
    while (key := f"{dtype}.{len(pieces)}" if pieces else dtype) in found:
        piece = found.pop(key)
        if not isinstance(piece, bytes):
            told = f"expected bytes, got {type(piece).__name__}"
            raise where._replace(position=f".{key}").wrong(told)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _unpack_specs(found: dict[str, Any], where: _Place) -> tuple[Spec, ...]:
    if not found.keys() >= set(COLUMNS):
        raise where.wrong("names, shapes and dtypes are missing")
    names, shapes, dtypes = (found.pop(key) for key in COLUMNS)
    for key, column in zip(COLUMNS, (names, shapes, dtypes), strict=True):
        if not isinstance(column, list):
            raise where._replace(position=f".{key}").wrong(
                f"expected a list, got {type(column).__name__}"
            )
    return _read_specs(tuple(names), tuple(shapes), tuple(dtypes), where)


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
