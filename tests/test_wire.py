"""Contracts survive the wire, and what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import wire
from common.errors import WireError
from common.tensors import Tensors
from common.wire import DTYPES, PLAIN, SHARED, pack, pack_all, unpack


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


def objects(record: RecordDict) -> list[str]:
    """Identities of all that Flower sends of a message's content."""
    return [part.object_id for part in iterate_object_tree(get_object_tree(record))]


def test_a_message_is_one_record():
    mixed = Tensors.pack({"mean": np.ones(3, np.float32), "count": np.array(7, np.int64)})
    record = pack(sample(buffers=mixed))
    assert list(record) == [PLAIN]
    assert len(objects(record)) == 2, "the content and its one record"


def test_a_vector_in_one_piece_is_not_copied():
    record = pack(sample())
    data = record[PLAIN]["model.float32"]
    vector = unpack(Sample, record).model.vector
    assert vector.__array_interface__["data"][0] == np.frombuffer(data, np.uint8).ctypes.data


def test_a_long_vector_travels_in_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "PIECE", 20)
    record = pack(sample())  # 13 numbers of 4 bytes
    pieces = ["model.float32", "model.float32.1", "model.float32.2"]
    assert [len(record[piece][piece]) for piece in pieces] == [20, 20, 12]
    assert set(record) == {PLAIN, *pieces}
    assert same(unpack(Sample, record).model, tensors())
    del record["model.float32.1"]
    with pytest.raises(WireError, match=r"Sample\.model: 20 bytes of float32, expected 52"):
        unpack(Sample, record)


def test_what_all_messages_share_is_one_object():
    model = tensors()
    messages = [sample(round=n, model=model) for n in range(4)]
    records = pack_all(messages)
    for message, record in zip(messages, records, strict=True):
        assert list(record[PLAIN]) == ["round"]
        assert set(record) == {PLAIN, SHARED}
        got = unpack(Sample, record)
        assert got.round == message.round
        assert same(got.model, model)
    assert len({id(record[SHARED]) for record in records}) == 1
    assert len({part for record in records for part in objects(record)}) == 1 + 2 * 4


def test_no_messages_are_no_records():
    assert pack_all([]) == []


def test_equal_messages_have_the_same_content():
    records = pack_all([sample(model=tensors()) for _ in range(3)])
    assert len({part for record in records for part in objects(record)}) == 2
    assert unpack(Sample, records[2]).round == 3


def test_what_some_share_is_one_object_if_it_is_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "LARGE", 10)
    one, other, third = (Tensors.pack({"a": np.full(9, n, np.float32)}) for n in range(3))
    models = [one, one, other, third, other]
    records = pack_all([sample(round=n, model=model) for n, model in enumerate(models)])
    for record, model in zip(records, models, strict=True):
        assert same(unpack(Sample, record).model, model)
    key = "model.float32"
    assert records[0][key] is records[1][key]
    assert records[2][key] is records[4][key]
    assert key in records[3][PLAIN]


@pytest.mark.parametrize("values", [(0.0, -0.0), (float(1), 1.5)])
def test_what_differs_in_a_bit_is_not_shared(values: tuple[float, float]):
    records = pack_all([sample(loss=value) for value in values])
    assert [repr(unpack(Sample, record).loss) for record in records] == [*map(repr, values)]


Change = Callable[[RecordDict], None]


def _set(key: str, value: object) -> Change:
    return lambda record: record["fields"].__setitem__(key, value)


def _drop(key: str) -> Change:
    return lambda record: record["fields"].pop(key)


def _specs(key: str, value: list[str]) -> Change:
    return _set(f"model.{key}", value)


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
        (lambda r: r.__setitem__("more", ConfigRecord({"x": 1})), "Sample.x: no such field"),
        (lambda r: r.__setitem__("more", ConfigRecord({"round": 3})), "Sample.round: occurs twice"),
        (lambda r: r.__setitem__("m", MetricRecord({"round": 3})), "Sample.m: no such field"),
        (_drop("model.names"), "Sample.model: names, shapes and dtypes"),
        (_drop("model.float32"), r"Sample.model: has dtypes \[\], its specs say \['float32'\]"),
        (_set("model.float32", bytes(48)), "Sample.model: 48 bytes of float32, expected 52"),
        (_set("model.float32", "0" * 52), "Sample.model.float32: expected bytes, got str"),
        (_set("model.float32", 52), "Sample.model.float32: expected bytes, got int"),
        (_set("model.float32.1", b"1234"), "Sample.model: 56 bytes of float32, expected 52"),
        (_set("model.float32.2", b""), "Sample.model.float32.2: no such field"),
        (_set("model.float64", b""), r"Sample.model: has dtypes \['float32', 'float64'\]"),
        (_set("model.more", 1), "Sample.model.more: no such field"),
        (_set("model", 1), "Sample.model: no such field"),
        (_set("model.names", 3), "Sample.model.names: expected a list, got int"),
        (_specs("names", ["a", "a", "b"]), "Sample.model: a name occurs twice"),
        (_specs("names", ["a"]), "Sample.model: names, shapes and dtypes differ"),
        (_specs("shapes", ["3x4", "", "-1x3"]), "Sample.model: empty has shape '-1x3'"),
        (_specs("shapes", ["3x4", "", "9" * 40]), "Sample.model: empty has shape"),
        (_specs("shapes", ["3x5", "", "0x3"]), "Sample.model: 52 bytes of float32, expected 64"),
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
    st.sampled_from(
        [
            "round",
            "loss",
            "clients",
            "contract",
            "z",
            "model",
            "model.names",
            "model.shapes",
            "model.dtypes",
            "model.float32",
            "model.float32.1",
            "model.int64",
        ]
    ),
    values,
)
def test_nothing_but_a_wire_error(key: str, value: object):
    record = pack(sample())
    record[PLAIN][key] = value
    try:
        got = unpack(Sample, record)
    except WireError:
        return
    assert got.model.specs == tensors().specs or key.startswith("model.")
