"""The decoder against what nobody meant to send: any records, flipped bytes, huge shapes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.methods.augfl import Up
from common.sketch import NUMBERS
from common.tensors import Tensors
from common.wire import DTYPES, PLAIN, pack, unpack

MODEL = Tensors.pack({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)})
HONEST = Up(3, 30, 0.5, 2, MODEL, [0.0] * NUMBERS, 1.0)


def decode(record: RecordDict) -> Up | None:
    """What the server does with a record: it fits and can be used, or it is refused."""
    error = None
    try:
        up = unpack(Up, record)
    except WireError as refused:
        error = refused
    if error is not None:
        assert error.field
        assert len(str(error)) < 1000
        return None
    for name, array in up.increment.unpack().items():
        assert isinstance(name, str)
        assert array.dtype.name in DTYPES
    return up


NAMES = st.sampled_from(
    ["fields", "increment", "increment.names", "increment.shapes", "increment.dtypes", "evaluation",
     "increment.float32", "increment.float32.1", "increment.int64", "round", "base", "dual",
     "examples", "loss", "contract", "wire-version", ""]
) | st.text(max_size=5)  # fmt: skip
SCALARS = st.integers(-(2**63), 2**64 - 1) | st.floats()
VALUES = SCALARS | st.text(max_size=9) | st.binary(max_size=9) | st.booleans()
LISTS = st.one_of(
    *(st.lists(kind, max_size=9) for kind in (st.integers(-9, 9), st.floats(), st.text(max_size=9)))
)
SHAPES = st.lists(st.integers(0, 2**40), max_size=4).map(tuple)
ARRAYS = st.builds(
    Array, st.sampled_from([*DTYPES, "object", "V8", ""]), SHAPES,
    st.sampled_from(["numpy.ndarray", ""]), st.binary(max_size=64),
)  # fmt: skip
RECORDS = st.one_of(
    st.dictionaries(NAMES, VALUES | LISTS, max_size=8).map(ConfigRecord),
    st.dictionaries(NAMES, SCALARS, max_size=4).map(MetricRecord),
    st.dictionaries(NAMES, ARRAYS, max_size=4).map(ArrayRecord),
)
SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip


@SLOW
@given(st.dictionaries(NAMES, RECORDS, max_size=6))
def test_any_records(records: dict[str, object]):
    assert decode(RecordDict(records)) is None


@SLOW
@given(
    st.lists(st.tuples(NAMES, VALUES | LISTS), min_size=1, max_size=4),
    st.dictionaries(NAMES, RECORDS, max_size=2),
)
def test_an_honest_record_with_some_values_exchanged(
    edits: list[tuple[str, object]], more: dict[str, object]
):
    record = pack(HONEST)
    for key, value in edits:
        record[PLAIN][key] = value
    record.update(more)
    decode(record)


@SLOW
@given(
    st.lists(st.text("0123456789x-e. ", max_size=30), min_size=1, max_size=3),
    st.lists(st.sampled_from([*DTYPES, "object"]), min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(DTYPES), st.binary(max_size=64), max_size=2),
)
def test_any_shapes(shapes: list[str], dtypes: list[str], vectors: dict[str, bytes]):
    record = pack(HONEST)
    names = [str(n) for n in range(len(shapes))]
    record[PLAIN].update(of_increment(names=names, shapes=shapes, dtypes=dtypes, **vectors))
    decode(record)


def of_increment(**values: object) -> dict[str, object]:
    return {f"increment.{name}": value for name, value in values.items()}


BYTES = recorddict_to_proto(pack(HONEST)).SerializeToString(deterministic=True)


@SLOW
@given(
    st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(1, 255)), min_size=1,
             max_size=8),
    st.integers(0, len(BYTES)),
)  # fmt: skip
def test_flipped_and_cut_bytes(flips: list[tuple[int, int]], cut: int):
    damaged = bytearray(BYTES)
    for position, flip in flips:
        damaged[position] ^= flip
    for content in (bytes(damaged), bytes(damaged[:cut])):
        try:
            record = recorddict_from_proto(ProtoRecordDict.FromString(content))
        except (DecodeError, ValueError, TypeError, KeyError, AttributeError):
            continue  # protobuf or Flower could not read it; the server says "message"
        decode(record)


@pytest.mark.parametrize(
    "shape", ["99999999999", "99999999999x99999999999", "x".join(["99999999999"] * 32), "0x9" * 31]
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_declared_size_allocates_nothing(shape: str, pieces: int):
    record = pack(HONEST)
    record[PLAIN].update(
        of_increment(names=["a"], shapes=[shape], dtypes=["float32"], float32=bytes(40))
    )
    if pieces > 1:
        record[PLAIN]["increment.float32.1"] = bytes(40)
    tracemalloc.start()
    try:
        assert decode(record) is None
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def test_a_large_reply_is_not_copied():
    size = 2**21  # as many bytes as one piece has
    model = Tensors.pack({"a": np.ones(size, np.float32)})
    record = pack(Up(3, 30, 0.5, 2, model, [0.0] * NUMBERS, 1.0))
    tracemalloc.start()
    try:
        assert decode(record) is not None
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()
