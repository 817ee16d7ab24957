"""Contract <-> Flower records: the only message format, and it refuses what does not fit.

A contract is a frozen dataclass. Its plain fields travel in one ``ConfigRecord``; each field of
named tensors travels as one flat array a dtype (Flower pays several round trips for every array)
with names, shapes and dtypes beside it. ``unpack`` trusts nothing: sizes, names, types and
finiteness are checked before a contract exists, and every error names the field.
"""

from __future__ import annotations

import math
import types
from dataclasses import fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import WireError
from common.tensors import Spec, Tensors

Contract = TypeVar("Contract")

VERSION = 1
"""Of this format. Both sides must agree; it is checked in every message."""

PLAIN = "fields"
STORAGE = "flat-little-endian"
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
MAX_NAMES = 100_000


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
        _check(value, hint, f"{_title(kind)}.{name}")
        if hint is Tensors:
            _pack_tensors(record, name, value, shared)
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
            f"{title}: the sender speaks wire version {version!r}, this side {VERSION}; "
            "install the same release of AugFlower on both"
        )
    if (sent := plain.pop("contract", None)) != title:
        raise WireError(f"{title}: got {sent!r} instead")
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for name, (hint, optional) in hints.items():
        where = f"{title}.{name}"
        present = name in record.array_records if hint is Tensors else name in plain
        if not present:
            if not optional:
                raise WireError(f"{where}: missing")
            values[name] = None
        elif hint is Tensors:
            values[name] = _unpack_tensors(record, name, where)
        else:
            values[name] = plain.pop(name)
            _check(values[name], hint, where)
    tensors = {name for name, (hint, _) in hints.items() if hint is Tensors}
    expected = tensors | {_specs(name) for name in tensors} | {PLAIN}
    if unknown := sorted(set(plain) | (set(record) - expected)):
        raise WireError(f"{title}.{unknown[0]}: no such field")
    return kind(**values)


def size(record: RecordDict) -> int:
    """Bytes of the array data in a message: what a model costs to send."""
    return sum(len(a.data) for r in record.array_records.values() for a in r.values())


_HINTS: dict[type, dict[str, tuple[Any, bool]]] = {}


def _hints(kind: type) -> dict[str, tuple[Any, bool]]:
    """Field name -> its type without ``None``, and whether ``None`` is allowed; read once."""
    if kind not in _HINTS:
        _HINTS[kind] = _read_hints(kind)
    return _HINTS[kind]


def _read_hints(kind: type) -> dict[str, tuple[Any, bool]]:
    hints = get_type_hints(kind)
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


def _check(value: Any, hint: Any, where: str) -> None:
    if get_origin(hint) is list:
        if not isinstance(value, list):
            raise WireError(f"{where}: expected a list, got {type(value).__name__}")
        (item,) = get_args(hint)
        for position, element in enumerate(value):
            _check(element, item, f"{where}[{position}]")
        return
    if type(value) is not hint:  # bool is an int to isinstance, but not on the wire
        raise WireError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")
    if hint is float and not math.isfinite(value):
        raise WireError(f"{where}: is {value}, must be finite")


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


def _unpack_tensors(record: RecordDict, name: str, where: str) -> Tensors:
    specs = _unpack_specs(record, name, where)
    needed: dict[str, int] = {}
    for _, shape, dtype in specs:
        needed[dtype] = needed.get(dtype, 0) + math.prod(shape)
    arrays = record.array_records[name]
    if set(arrays) != set(needed):
        raise WireError(f"{where}: has dtypes {sorted(arrays)}, its specs say {sorted(needed)}")
    vectors: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    for dtype, array in arrays.items():
        count = needed[dtype]
        kind = np.dtype(dtype).newbyteorder("<")
        if array.stype != STORAGE or array.dtype != dtype or tuple(array.shape) != (count,):
            raise WireError(
                f"{where}: {array.dtype} {tuple(array.shape)} stored as {array.stype!r}; "
                f"expected {dtype} ({count},) stored as {STORAGE!r}"
            )
        if len(array.data) != count * kind.itemsize:
            raise WireError(
                f"{where}: {len(array.data)} bytes of {dtype}, expected {count * kind.itemsize}"
            )
        vectors[dtype] = np.frombuffer(array.data, kind)
    return Tensors(specs, vectors)


def _unpack_specs(record: RecordDict, name: str, where: str) -> tuple[Spec, ...]:
    columns = record.config_records.get(_specs(name))
    if columns is None or set(columns) != {"names", "shapes", "dtypes"}:
        raise WireError(f"{where}: names, shapes and dtypes are missing")
    names, shapes, dtypes = (columns[key] for key in ("names", "shapes", "dtypes"))
    for column in (names, shapes, dtypes):
        _check(column, list[str], f"{where}.specs")
    if not len(names) == len(shapes) == len(dtypes) <= MAX_NAMES:  # type: ignore[arg-type]
        raise WireError(f"{where}: names, shapes and dtypes differ in number, or are too many")
    if len(set(names)) != len(names):  # type: ignore[arg-type]
        raise WireError(f"{where}: a name occurs twice")
    specs = []
    for tensor, shape, dtype in zip(names, shapes, dtypes, strict=True):  # type: ignore[arg-type]
        sizes = str(shape).split("x") if shape else []
        if not all(part.isascii() and part.isdigit() and len(part) < 12 for part in sizes):
            raise WireError(f"{where}: {str(tensor)[:80]} has shape {str(shape)[:80]!r}")
        if dtype not in DTYPES:
            raise WireError(f"{where}: {str(tensor)[:80]} has dtype {str(dtype)[:20]!r}")
        specs.append((str(tensor), tuple(int(part) for part in sizes), str(dtype)))
    return tuple(specs)
