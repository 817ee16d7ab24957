"""Contracts survive the wire, and what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import WireError
from common.tensors import Tensors
from common.wire import DTYPES, STORAGE, pack, unpack


@dataclass(frozen=True)
class Sample:
    round: int
    loss: float
    name: str
    central: bool
    clients: list[int]
    model: Tensors
    buffers: Tensors | None = None
    note: str | None = None


def tensors() -> Tensors:
    rng = np.random.default_rng(0)
    return Tensors.pack(
        {
            "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
            "scalar": np.float32(2.5).reshape(()),
            "empty": np.zeros((0, 3), np.float32),
        }
    )


def sample(**changes: object) -> Sample:
    return replace(Sample(3, 0.5, "x", True, [1, 2], tensors()), **changes)


def same(one: Tensors, other: Tensors) -> bool:
    return one.specs == other.specs and all(
        np.array_equal(v, other.vectors[d], equal_nan=v.dtype.kind == "f")
        for d, v in one.vectors.items()
    )


def test_round_trip():
    mixed = Tensors.pack({"mean": np.ones(3, np.float32), "count": np.array(7, np.int64)})
    sent = sample(buffers=mixed, note="hello")
    got = unpack(Sample, pack(sent))
    assert replace(got, model=sent.model, buffers=mixed) == sent
    assert same(got.model, sent.model)
    assert got.buffers is not None
    assert same(got.buffers, mixed)
    assert got.buffers.unpack()["count"] == 7


def test_absent_optional_fields_stay_absent():
    got = unpack(Sample, pack(sample()))
    assert got.buffers is None
    assert got.note is None


def test_parameters_travel_as_one_array():
    record = pack(sample())
    assert [len(r) for r in record.array_records.values()] == [1]


def test_array_data_is_not_copied():
    record = pack(sample())
    data = record.array_records["model"]["float32"].data
    vector = unpack(Sample, record).model.vector
    assert vector.__array_interface__["data"][0] == np.frombuffer(data, np.uint8).ctypes.data


Change = Callable[[RecordDict], None]


def _set(key: str, value: object) -> Change:
    return lambda record: record["fields"].__setitem__(key, value)


def _drop(key: str) -> Change:
    return lambda record: record["fields"].pop(key)


def _array(dtype: str = "float32", shape: tuple[int, ...] = (13,), stype: str = STORAGE,
           data: bytes = bytes(52)) -> Change:  # fmt: skip
    return lambda record: record.__setitem__(
        "model", ArrayRecord({dtype: Array(dtype, shape, stype, data)})
    )


def _specs(key: str, value: list[str]) -> Change:
    return lambda record: record["model.specs"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_set("wire-version", 99), "Sample: the sender speaks wire version 99"),
        (_set("contract", "other.Up"), "Sample: got 'other.Up' instead"),
        (lambda record: record.pop("fields"), "wire version None"),
        (_drop("round"), "Sample.round: missing"),
        (_set("round", 1.0), "Sample.round: expected int, got float"),
        (_set("round", True), "Sample.round: expected int, got bool"),
        (_set("central", 1), "Sample.central: expected bool, got int"),
        (_set("loss", float("nan")), "Sample.loss: is nan"),
        (_set("loss", float("inf")), "Sample.loss: is inf"),
        (_set("loss", 1), "Sample.loss: expected float"),
        (_set("name", b"x"), "Sample.name: expected str"),
        (_set("clients", 4), "Sample.clients: expected a list"),
        (_set("clients", ["4"]), r"Sample.clients\[0\]: expected int"),
        (_set("extra", 1), "Sample.extra: no such field"),
        (lambda r: r.__setitem__("more", ArrayRecord()), "Sample.more: no such field"),
        (lambda r: r.__setitem__("more", ConfigRecord()), "Sample.more: no such field"),
        (lambda record: record.pop("model"), "Sample.model: missing"),
        (lambda record: record.pop("model.specs"), "Sample.model: names, shapes and dtypes"),
        (_array(data=bytes(48)), "Sample.model: 48 bytes of float32, expected 52"),
        (_array(shape=(12,)), "Sample.model: 'float32'"),
        (_array(stype="numpy.ndarray"), "Sample.model: 'float32'"),
        (_array(dtype="float64", data=bytes(104)), "Sample.model: has dtypes"),
        (_specs("names", ["a", "a", "b"]), "Sample.model: a name occurs twice"),
        (_specs("names", ["a"]), "Sample.model: names, shapes and dtypes differ"),
        (_specs("shapes", ["3x4", "", "-1x3"]), "Sample.model: empty has shape '-1x3'"),
        (_specs("shapes", ["3x4", "", "9" * 40]), "Sample.model: empty has shape"),
        (_specs("shapes", ["3x5", "", "0x3"]), "Sample.model: 'float32'"),
        (_specs("dtypes", ["float32", "object", "float32"]), "Sample.model: scalar has dtype"),
    ],
)
def test_refused_by_name(change: Change, field: str):
    record = pack(sample())
    change(record)
    with pytest.raises(WireError, match=field):
        unpack(Sample, record)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"loss": float("nan")}, "Sample.loss: is nan"),
        ({"round": "3"}, "Sample.round: expected int"),
        ({"model": np.zeros(3)}, "Sample.model: expected Tensors"),
    ],
)
def test_the_sender_is_checked_too(changes: dict[str, object], field: str):
    with pytest.raises(WireError, match=field):
        pack(sample(**changes))


shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=12), arrays, max_size=5))
def test_any_tensors_survive(named: dict[str, np.ndarray]):
    model = Tensors.pack(named)
    assert same(unpack(Sample, pack(sample(model=model))).model, model)


values = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=8),
    st.booleans(), st.lists(st.integers(-9, 9), max_size=3), st.lists(st.text(max_size=4)),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["fields", "model.specs"]),
    st.sampled_from(["round", "loss", "clients", "names", "shapes", "dtypes", "contract", "z"]),
    values,
)
def test_nothing_but_a_wire_error(part: str, key: str, value: object):
    record = pack(sample())
    record[part][key] = value
    try:
        got = unpack(Sample, record)
    except WireError:
        return
    assert got.model.specs == tensors().specs or part == "model.specs"
