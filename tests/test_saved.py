"""What an object declares that survives a round comes back as it was, through a checkpoint file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import RunError
from common.tensors import Tensors
from server_app.methods import fedavg
from server_app.runs import checkpoints
from server_app.saved import Saved, State, declared, load, save


class Inner:
    count: Saved[int]
    vector: Saved[NDArray[np.float64]]

    def __init__(self) -> None:
        self.count, self.vector = 0, np.zeros(0)


class Base:
    model: Saved[Tensors | None]

    def __init__(self) -> None:
        self.model = None


class Outer(Base):
    buffers: Saved[Tensors]
    array: Saved[NDArray[np.float32]]
    heads: Saved[dict[int, Tensors]]
    rows: Saved[dict[int, NDArray[np.float64]]]
    named: Saved[dict[str, Tensors]]
    rounds: Saved[dict[int, int]]
    losses: Saved[dict[int, list[float]]]
    nested: Saved[dict[int, dict[int, float]]]
    gone: Saved[list[int]]
    pair: Saved[tuple[int, float]]
    rate: Saved[float]
    word: Saved[str]
    maybe: Saved[float | None]
    centre: Saved[NDArray[np.float64] | None]
    inner: Saved[Inner]
    scratch: int

    def __init__(self) -> None:
        super().__init__()
        self.buffers, self.array = Tensors((), {}), np.zeros(0, np.float32)
        self.heads, self.rows, self.named = {}, {}, {}
        self.rounds, self.losses, self.nested = {}, {}, {}
        self.gone, self.pair, self.rate, self.word = [], (0, 0.0), 0.0, ""
        self.maybe = self.centre = None
        self.inner, self.scratch = Inner(), 7


def through_a_file(state: State, folder: Path) -> State:
    """As a checkpoint does, notes of the shell beside those of the method."""
    groups, notes = state
    checkpoints.save(folder, "token", 1, groups, {"method": notes, "line": {"round": 1}}, keep=1)
    found = checkpoints.newest(folder, "token", pytest.fail)
    assert found is not None
    return found[1], found[2]["method"]


def equal(one: Any, other: Any) -> bool:
    """To the byte, types and order of dictionaries included."""
    if declared(type(one)):
        return all(equal(getattr(one, n), getattr(other, n)) for n in declared(type(one)))
    match one:
        case Tensors():
            return one.specs == other.specs and equal(one.vectors, other.vectors)
        case np.ndarray():
            same = one.dtype == other.dtype and one.shape == other.shape
            return same and one.tobytes() == other.tobytes()
        case dict():
            return [*one] == [*other] and all(equal(one[key], other[key]) for key in one)
        case list() | tuple():
            return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


def tensors(value: float) -> Tensors:
    return Tensors.pack(
        {"w": np.full((2, 3), value, np.float32), "n": np.array(int(value)), "e": np.zeros((0, 2))}
    )


def filled() -> Outer:
    thing = Outer()
    thing.model, thing.buffers = tensors(1), tensors(2)
    thing.array = np.arange(6, dtype=np.float32).reshape(2, 3)
    thing.heads = {12: tensors(3), 3: tensors(4)}
    thing.rows = {5: np.array(2.5), 1: np.array([np.nan, np.inf])}
    thing.named = {"a/b": tensors(5), "a": tensors(6)}
    thing.rounds, thing.losses = {10: 3, 2: 4}, {1: [0.1, 1e-300], 0: []}
    thing.nested = {1: {2: 0.5}}
    thing.gone, thing.pair, thing.rate, thing.word = [3, 1], (4, 0.25), 1 / 3, "größer"
    thing.maybe, thing.centre = 0.5, np.ones(2)
    thing.inner.count, thing.inner.vector = 9, np.arange(3.0)
    thing.scratch = 8
    return thing


@pytest.mark.parametrize("make", [Outer, filled])
def test_each_kind_of_value_comes_back(make: type[Outer], tmp_path: Path):
    old, new = make(), filled() if make is Outer else Outer()
    load(new, through_a_file(save(old), tmp_path))
    assert equal(old, new)
    load(again := filled(), save(old))  # without a file as well
    assert equal(old, again)


def test_what_is_not_declared_is_left_alone():
    new = Outer()
    load(new, save(filled()))
    assert new.scratch == 7
    assert "scratch" not in declared(Outer)


def test_a_state_that_was_taken_stays_what_it_was():
    thing = filled()
    state = save(thing)
    thing.heads = thing.heads | {3: tensors(9)}
    thing.inner.vector = thing.inner.vector + 1
    load(new := Outer(), state)
    assert equal(new, filled())


@pytest.mark.parametrize("name", sorted(declared(Outer)))
def test_what_is_missing_is_told(name: str):
    groups, notes = save(filled())
    for part in (groups, notes):
        for key in [key for key in part if key.split(".")[0].split("/")[0] == name]:
            del part[key]
    with pytest.raises(KeyError, match="count" if name == "inner" else name):
        load(Outer(), (groups, notes))


def test_a_checkpoint_of_another_release_is_told(
    small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    short = {"rounds": 1, "evaluation.every": 0, "run-name": "old"}
    small_run("fedavg", short)
    monkeypatch.setitem(fedavg.Server.__annotations__, "control", Saved[Tensors])
    monkeypatch.setattr(fedavg.Server, "control", tensors(0), raising=False)
    with pytest.raises(RunError, match="its checkpoint has no 'control', another release"):
        small_run("fedavg", {**short, "rounds": 2, "resume": True})


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(
    keys=st.lists(st.integers(-5, 2**40), unique=True, max_size=5),
    values=st.lists(FLOATS, max_size=4),
    rate=FLOATS,
)
def test_numbers_come_back_to_the_bit(
    keys: list[int], values: list[float], rate: float, tmp_path_factory: pytest.TempPathFactory
):
    thing = Outer()
    thing.rate, thing.losses = rate, dict.fromkeys(keys, values)
    thing.rows = {key: np.array(values) for key in keys}
    load(new := Outer(), through_a_file(save(thing), tmp_path_factory.mktemp("c")))
    assert equal(thing, new)
