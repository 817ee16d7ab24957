"""Settings that nest in a contract, and fields of few values: what does not fit is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.contract import Between, Count
from common.errors import WireError
from common.sgd import LocalSgd
from common.wire import PLAIN, pack, unpack


@dataclass(frozen=True)
class Sample:
    sgd: LocalSgd
    kind: Literal["", "kl", "mse"]
    level: Literal[1, 2]
    share: Annotated[float, Between(0.0, 1.0)]
    counts: list[Count]
    second: LocalSgd | None = None
    mood: Literal["good"] | None = None


def sample(**changes: Any) -> Sample:
    return replace(Sample(LocalSgd(lr=0.5, batch_size=8), "kl", 2, 0.25, [1, 2]), **changes)


def sent(**changes: Any) -> RecordDict:
    """A message of which some fields are other than they should be; those that are None are not."""
    record = pack(sample())
    plain = {**record[PLAIN], **changes}
    record[PLAIN] = ConfigRecord({key: part for key, part in plain.items() if part is not None})
    return record


@pytest.mark.parametrize(
    "changes",
    [{}, {"second": LocalSgd(epochs=3)}, {"mood": "good"}, {"kind": ""}, {"level": 1}],
)
def test_round_trip(changes: dict[str, Any]):
    assert unpack(Sample, pack(sample(**changes))) == sample(**changes)


def test_names_on_the_wire_are_those_of_the_settings():
    assert {key for key in pack(sample())[PLAIN] if key.startswith("sgd")} == {
        "sgd.lr", "sgd.momentum", "sgd.weight-decay", "sgd.epochs", "sgd.batch-size"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sgd.lr": None}, r"Sample\.sgd\.lr: missing"),
        ({"sgd.epochs": None, "sgd.lr": None}, r"Sample\.sgd\.lr: missing"),
        ({f"sgd.{name}": None for name in ("lr", "momentum", "weight-decay", "epochs",
                                           "batch-size")}, r"Sample\.sgd: missing"),
        ({"sgd.rate": 1.0}, r"Sample\.sgd\.rate: no such field"),
        ({"sgd.batch_size": 4}, r"Sample\.sgd\.batch_size: no such field"),
        ({"sgd.": 4}, r"Sample\.sgd\.: no such field"),
        ({"sgd.lr.more": 4}, r"Sample\.sgd\.lr\.more: no such field"),
        ({"sgd": 4}, r"Sample\.sgd: no such field"),
        ({"second.lr": 0.5}, r"Sample\.second\.momentum: missing"),
        ({"sgd.lr": 11.0}, r"Sample\.sgd: .*sgd\.lr.*less than or equal to 10"),
        ({"sgd.lr": 0.0}, r"sgd\.lr.*greater than 0"),
        ({"sgd.lr": float("nan")}, r"sgd\.lr.*finite number"),
        ({"sgd.lr": "0.5"}, r"sgd\.lr.*valid number"),
        ({"sgd.lr": True}, r"sgd\.lr.*valid number"),
        ({"sgd.lr": [0.5]}, r"sgd\.lr.*valid number"),
        ({"sgd.epochs": 1.0}, r"sgd\.epochs.*valid integer"),
        ({"sgd.epochs": 10**9}, r"sgd\.epochs.*less than or equal to 1000"),
        ({"kind": "KL"}, r"Sample\.kind: is 'KL', must be one of \('', 'kl', 'mse'\)"),
        ({"kind": b"kl"}, r"Sample\.kind: is b'kl', must be one of"),
        ({"kind": ["kl"]}, r"Sample\.kind: is \['kl'\], must be one of"),
        ({"kind": None}, r"Sample\.kind: missing"),
        ({"level": 3}, r"Sample\.level: is 3, must be one of \(1, 2\)"),
        ({"level": 1.0}, r"Sample\.level: is 1\.0, must be one of"),
        ({"level": True}, r"Sample\.level: is True, must be one of"),
        ({"mood": "bad"}, r"Sample\.mood: is 'bad'"),
        ({"share": 1.5}, r"Sample\.share: is 1\.5; 0 to 1 are possible"),
        ({"share": 1}, r"Sample\.share: expected float, got int"),
        ({"counts": [1, -1]}, r"Sample\.counts\[1\]: is -1; 0 to"),
        ({"counts": [1, True]}, r"Sample\.counts\[1\]: expected int, got bool"),
    ],
)  # fmt: skip
def test_refused_by_name(changes: dict[str, Any], told: str):
    with pytest.raises(WireError, match=f"(?s){told}"):
        unpack(Sample, sent(**changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "KL"}, "Sample.kind: is 'KL'"),
        ({"level": True}, "Sample.level: is True"),
        ({"sgd": {"lr": 0.5}}, "Sample.sgd: expected LocalSgd, got dict"),
    ],
)
def test_nothing_bad_is_sent(changes: dict[str, Any], told: str):
    with pytest.raises(WireError, match=told):
        pack(sample(**changes))


VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(), st.binary(),
    st.lists(st.integers(0, 9), max_size=3),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(sorted(pack(sample())[PLAIN])), st.text(max_size=9).map("sgd.{}".format)
)


@given(changes=st.dictionaries(KEYS, st.none() | VALUES, max_size=3))
def test_whatever_is_sent_fits_or_is_refused(changes: dict[str, Any]):
    try:
        got = unpack(Sample, sent(**changes))
    except WireError:
        return
    assert unpack(Sample, pack(got)) == got


@pytest.mark.parametrize("changes", [
    {"kind": "x" * 10**6}, {"sgd.lr": "x" * 10**6}, {"sgd." + "x" * 10**6: 1},
])  # fmt: skip
def test_a_foreign_text_does_not_fill_the_message(changes: dict[str, Any]):
    with pytest.raises(WireError) as told:
        unpack(Sample, sent(**changes))
    assert len(str(told.value)) < 500
