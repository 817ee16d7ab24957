"""What replies may hold, and how it is added up: closed forms, by hand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.contract import Result
from common.errors import RunError
from common.tensors import Spec, Tensors
from server_app.aggregation.expected import AnyOf, Exactly, Expected, NoLarger, Part, Vector, size
from server_app.aggregation.means import Means
from server_app.aggregation.replies import EMPTY, Replies
from server_app.validation.errors import Rejected
from server_app.validation.gate import check_fields

A: Spec = ("a", (4, 3), "float32")
B: Spec = ("b", (2,), "float32")
N: Spec = ("n", (), "int64")
SPECS = (A, B, N)


def like(specs: tuple[Spec, ...], value: float = 1.0) -> Tensors:
    return Tensors.pack({name: np.full(shape, value, kind) for name, shape, kind in specs})


def problem_of(pattern: Exactly, *got: Spec) -> str:
    return pattern.problem(got)


@pytest.mark.parametrize("pattern", [Exactly(SPECS), Vector(SPECS)])
def test_exactly(pattern: Exactly):
    assert pattern.problem(SPECS) == ""
    assert problem_of(pattern, A, B) == "has 2 tensors, expected 3"
    assert problem_of(pattern, *SPECS, A) == "has 4 tensors, expected 3"
    assert problem_of(pattern, B, A, N) == "has b float32 (2,), expected a float32 (4, 3)"
    assert "expected b float32 (2,)" in problem_of(pattern, A, ("b", (3,), "float32"), N)
    assert "has b float64" in problem_of(pattern, A, ("b", (2,), "float64"), N)


def test_any_of():
    pattern = AnyOf(SPECS)
    for got in ((A,), (N,), (A, N), (B, N), SPECS):
        assert pattern.problem(got) == ""
    assert problem_of(pattern) == "is empty, expected some of 3 tensors"
    assert problem_of(pattern, B, A) == "has a float32 (4, 3) twice or out of order"
    assert problem_of(pattern, B, B) == "has b float32 (2,) twice or out of order"
    assert problem_of(pattern, B, ("c", (), "int64")).startswith("has c int64 ()")
    wrong = ("n", (1,), "int64")
    assert problem_of(pattern, B, wrong) == "has n int64 (1,), expected n int64 ()"


def test_no_larger():
    pattern = NoLarger((A, B))
    for first in ((4, 3), (1, 3), (4, 1), (1, 1)):
        assert problem_of(pattern, ("a", first, "float32"), B) == ""
    small: Spec = ("a", (1, 3), "float32")
    for bad in ((5, 3), (0, 3), (4,), (4, 3, 1), ()):
        assert problem_of(pattern, ("a", bad, "float32"), B).startswith("has a float32")
    assert problem_of(pattern, small, ("b", (3,), "float32")).startswith("has b float32 (3,)")
    assert problem_of(pattern, small) == "has 1 tensors, expected 2"
    assert problem_of(pattern, ("a", (4, 3), "float16"), B).startswith("has a float16")
    assert problem_of(pattern, ("A", (4, 3), "float32"), B).startswith("has A float32")


ROWS = np.array([0, 2])
WHERE = {"a": (ROWS, np.array([1, 2]))}


def test_part():
    pattern = Part((A, B), WHERE)
    assert pattern.largest == (("a", (2, 2), "float32"),)
    assert pattern.problem(pattern.largest) == ""
    assert problem_of(pattern, A) == "has a float32 (4, 3), expected a float32 (2, 2)"
    assert problem_of(pattern, *pattern.largest, B) == "has 2 tensors, expected 1"


@given(specs=st.lists(
    st.tuples(
        st.text(max_size=20), hnp.array_shapes(min_dims=0, max_dims=4, max_side=9).map(tuple),
        st.sampled_from(["float32", "float16", "int64", "bool"]),
    ),
    max_size=6, unique_by=lambda spec: spec[0],
))  # fmt: skip
def test_a_size_holds_all_bytes_that_may_come(specs: list[Spec]):
    assert size(tuple(specs)) >= like(tuple(specs)).nbytes + sum(len(s[0]) + 24 for s in specs)


# Means


def test_each_entry_is_the_mean_of_those_that_have_it():
    """theta_j + sum_{i has j} n_i delta_ij / sum_{i has j} n_i, by hand."""
    means = Means()
    where = {"a": (np.array([1]), np.array([0, 2]))}
    means.add(Tensors.pack({"a": np.array([[3.0, 5.0]], np.float32)}), 1, where, {"a": (2, 3)})
    means.add(Tensors.pack({"a": np.array([[1.0, 1.0, 1.0]] * 2, np.float32)}), 3)
    old = Tensors.pack({"a": np.full((2, 3), 10, np.float32), "b": np.ones(2, np.float32)})
    np.testing.assert_array_equal(
        means.values(old).unpack()["a"], [[1, 1, 1], [(3 + 3) / 4, 1, (5 + 3) / 4]]
    )
    np.testing.assert_array_equal(means.moved(old).unpack()["a"], [[11] * 3, [11.5, 11, 12]])
    np.testing.assert_array_equal(means.moved(old).unpack()["b"], [1, 1])
    assert means.covered == 6


def test_whole_first_and_a_part_later_are_the_same():
    where = {"a": (np.array([1]), np.array([0, 2]))}
    part = Tensors.pack({"a": np.array([[3.0, 5.0]], np.float32)})
    whole = Tensors.pack({"a": np.arange(6, dtype=np.float32).reshape(2, 3)})
    one, other = Means(), Means()
    one.add(part, 1.0, where, {"a": (2, 3)})
    one.add(whole, 3.0)
    other.add(whole, 3.0)
    other.add(part, 1.0, where, {"a": (2, 3)})
    got = (m.values(whole).vector.tobytes() for m in (one, other))
    assert len(set(got)) == 1


def test_entries_that_nobody_has_keep_their_bytes():
    odd = np.array([-0.0, 1e-45, np.pi, 7.0], np.float32)
    old = Tensors.pack({"a": odd, "n": np.array([5, 6, 7]), "unseen": odd})
    where = {"a": (np.array([3]),), "n": (np.array([0]),)}
    part = Tensors.pack({"a": np.array([1.0], np.float32), "n": np.array([4])})
    means = Means()
    means.add(part, 2.0, where, {"a": (4,), "n": (3,)})
    for new in (means.values(old), means.moved(old)):
        assert new.specs == old.specs
        assert new.unpack()["a"][:3].tobytes() == odd[:3].tobytes()
        assert new.unpack()["unseen"].tobytes() == odd.tobytes()
        assert new.unpack()["n"].tolist() == [4, 6, 7]
    assert means.covered == 2


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool"])
def test_what_counts_takes_the_largest(kind: str):
    means = Means()
    for values in ([0, 1, 0], [1, 0, 0]):
        means.add(Tensors.pack({"n": np.array(values, kind)}), 5.0)
    old = Tensors.pack({"n": np.array([1, 1, 1], kind)})
    got = means.values(old).unpack()["n"]
    assert (got.dtype.name, got.tolist()) == (kind, [1, 1, 0])


def test_a_weight_of_nothing_changes_nothing():
    old = like(SPECS, 3)
    means = Means()
    means.add(like(SPECS, 9), 0.0)
    assert means.covered == 0
    for new in (means.values(old), means.moved(old)):
        assert [v.tobytes() for v in new.vectors.values()] == [
            v.tobytes() for v in old.vectors.values()
        ]


def test_names_that_the_server_has_not_seen_are_added():
    means = Means()
    means.add(Tensors.pack({"cat": np.ones(2, np.float32)}), 1.0)
    means.add(Tensors.pack({"dog": np.full(2, 3, np.float32), "n": np.array([-4])}), 2.0)
    got = means.values(EMPTY).unpack()
    assert {name: array.tolist() for name, array in got.items()} == {
        "cat": [1, 1], "dog": [3, 3], "n": [-4]
    }  # fmt: skip


@settings(deadline=None)
@given(data=st.data(), clients=st.integers(1, 6))
def test_means_are_what_the_equation_says(data: st.DataObject, clients: int):
    sums, weights, means = np.zeros((3, 4)), np.zeros((3, 4)), Means()
    for _ in range(clients):
        axes = tuple(
            np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))) for n in (3, 4)
        )
        at, weight = np.ix_(*axes), data.draw(st.integers(1, 100))
        values = data.draw(
            hnp.arrays(np.float32, tuple(map(len, axes)), elements=st.integers(-1000, 1000))
        )
        means.add(Tensors.pack({"a": values}), weight, {"a": axes}, {"a": (3, 4)})
        sums[at] += weight * values.astype(np.float64)
        weights[at] += weight
    old = np.arange(12, dtype=np.float32).reshape(3, 4)
    seen = weights > 0
    wanted = old.copy()
    wanted[seen] = (old[seen] + sums[seen] / weights[seen]).astype(np.float32)
    np.testing.assert_array_equal(means.moved(Tensors.pack({"a": old})).unpack()["a"], wanted)
    assert means.covered == seen.sum()


# Replies


@dataclass(frozen=True)
class Up(Result):
    x: Tensors
    extra: Tensors | None = None


class Counts:
    """A method that expects what a test says."""

    collects: frozenset[str] = frozenset()

    def __init__(self, expects: Callable[[int], Expected], weight: Any = None) -> None:
        self.expects = expects
        self._weight = weight or (lambda up: float(up.examples))

    def weight(self, client: int, up: Up) -> float:
        return float(self._weight(up))

    factor = weight

    def check(self, client: int, up: Up, sizes: dict[str, float]) -> dict[str, float]:
        return sizes


def gather(method: Counts, *ups: Up) -> Replies:
    replies = Replies(method)  # type: ignore[arg-type]
    for client, up in enumerate(ups):
        check_fields(up, 1, 10**6, method.expects(client))
        replies.accept(replies.offer(client, up))
    return replies


PART = Part((("a", (3, 2), "float32"), ("n", (2,), "int64")), {"a": (np.r_[0:2], np.r_[1:2])})


@pytest.mark.parametrize("pattern", [Vector, Exactly, AnyOf, PART])
@pytest.mark.parametrize("groups", [[[0, 1, 2], [3, 4]], [[4], [2, 0], [3, 1]]])
def test_sums_of_groups_are_to_the_bit_those_of_all(pattern: Any, groups: list[list[int]]):
    specs = (("a", (3, 2), "float32"), ("n", (2,), "int64"))
    pattern = pattern if pattern is PART else pattern(specs[:1] if pattern is Vector else specs)
    dice = np.random.default_rng(0)

    def values(shape: tuple[int, ...], dtype: str) -> Any:
        scale = 10.0 ** dice.integers(-9, 4) if dtype == "float32" else 100
        return (dice.normal(size=shape) * scale).astype(dtype)

    ups = [
        Up(1, 1 + 7 * n, 0.1, Tensors.pack({name: values(s, d) for name, s, d in pattern.largest}))
        for n in range(5)
    ]
    method = Counts(lambda client: {"x": pattern})
    flat, merged = gather(method, *ups), Replies(method)  # type: ignore[arg-type]
    for group in groups:
        part = Replies(method)  # type: ignore[arg-type]
        offers = [part.offer(client, ups[client]) for client in group]
        for offer in offers:
            part.accept(offer)
        merged.merge(part.parts(), [replace(o, up=part.ups[o.client]) for o in offers])
    merged.sort()
    old = like(pattern.specs)
    for found, wanted in (
        [(merged.average("x"), flat.average("x"))]
        if isinstance(pattern, Vector)
        else [(merged.averaged("x", old), flat.averaged("x", old))]
    ):
        for dtype, vector in wanted.vectors.items():
            assert vector.tobytes() == found.vectors[dtype].tobytes()
    assert (merged.loss, merged.ups, merged.norms) == (flat.loss, flat.ups, flat.norms)


def test_factors_of_varying_rank_are_added_entry_by_entry():
    method = Counts(lambda client: {"x": NoLarger((A,))})
    replies = gather(
        method,
        Up(1, 1, 0.5, Tensors.pack({"a": np.full((1, 3), 4, np.float32)})),
        Up(1, 3, 0.5, Tensors.pack({"a": np.full((2, 3), 8, np.float32)})),
    )
    old = like((A,), 100)
    got = replies.averaged("x", old).unpack()["a"]
    np.testing.assert_array_equal(got, [[7] * 3, [8] * 3, [100] * 3, [100] * 3])
    assert replies.covered("x") == 6
    assert replies.moved("x", old).unpack()["a"][0, 0] == 107


def test_a_large_client_is_whole_and_a_small_one_a_part():
    patterns: list[Exactly] = [Exactly((A,)), Part((A,), WHERE)]
    for order in ([0, 1], [1, 0]):
        method = Counts(lambda client, order=order: {"x": patterns[order[client]]})
        sent = [Up(1, 1, 0.5, like(pattern.largest, 2)) for pattern in patterns]
        replies = gather(method, *(sent[kind] for kind in order))
        np.testing.assert_array_equal(replies.moved("x", like((A,), 1)).unpack()["a"], 3)


def test_a_vector_and_a_part_of_it_are_not_confused():
    patterns: list[Exactly] = [Vector((A,)), Part((A,), WHERE)]
    sent = [Up(1, 1, 0.5, like(pattern.largest, 2)) for pattern in patterns]
    with pytest.raises(RunError, match="x of client 1 cannot be added up with that of others"):
        gather(Counts(lambda client: {"x": patterns[client]}), *sent)


@pytest.mark.parametrize("pattern", [Vector((A,)), Exactly((A,))])
def test_an_optional_field_may_be_left_out(pattern: Exactly):
    method = Counts(lambda client: {"x": Vector((A,)), "extra": pattern})
    x = like((A,))
    replies = gather(method, Up(1, 1, 0.5, x), Up(1, 7, 0.5, x, like((A,), 5)), Up(1, 2, 0.5, x))
    np.testing.assert_array_equal(replies.moved("extra", like((A,), 1)).unpack()["a"], 6)
    assert (replies.ups[0].extra, replies.ups[1].extra) == (None, EMPTY)
    none = gather(method, Up(1, 1, 0.5, x))
    none.offer(1, Up(1, 1, 0.5, x, like((A,), 5)))
    assert none.moved("extra", x).vector.tobytes() == x.vector.tobytes()
    with pytest.raises(Rejected, match="extra: has b"):
        gather(method, Up(1, 1, 0.5, x, like((B,))))


@settings(deadline=None)
@given(weights=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8), loss=st.floats(0, 100))
@pytest.mark.parametrize("pattern", [Vector((A, B)), Exactly((A, B)), AnyOf((A, B))])
def test_weights_and_divisors_agree(pattern: Exactly, weights: list[float], loss: float):
    """What all send comes out, however a method counts them, also if never twice alike."""
    drawn = iter(weights * 3)
    method = Counts(lambda client: {"x": pattern}, lambda up: next(drawn))
    replies = gather(method, *(Up(1, 1, loss, like((A, B), 2.5)) for _ in weights))
    np.testing.assert_allclose(replies.moved("x", like((A, B), 1)).vector, 3.5, rtol=1e-5)
    assert replies.mean("loss") == pytest.approx(loss)
    assert replies.loss == pytest.approx(loss)


def test_replies_that_count_nothing_move_nothing():
    for pattern in (Vector((A,)), Exactly((A,))):
        method = Counts(lambda client, pattern=pattern: {"x": pattern}, lambda up: 0)
        replies = gather(method, Up(1, 1, 0.5, like((A,), 9)))
        assert replies.moved("x", like((A,), 1)).vector.tobytes() == like((A,), 1).vector.tobytes()
    assert np.isnan(replies.loss)


def test_collected_fields_are_kept_one_by_one():
    method = Counts(lambda client: {"x": AnyOf((A, B))})
    method.collects = frozenset({"x"})
    sent = [like((A,), 1), like((B,), 2)]
    replies = gather(method, *(Up(1, 1, 0.5, x) for x in sent))
    assert replies.each("x") == dict(enumerate(sent))


@pytest.mark.parametrize(
    "pattern", [Vector((A, B)), Exactly((A, B)), AnyOf((A, B)), Part((A,), WHERE)]
)
def test_the_order_of_clients_does_not_matter(pattern: Exactly):
    dice = np.random.default_rng(0)
    weights = dice.uniform(1e-3, 1e3, 12)
    sent = [
        Up(1, 1, float(dice.normal()), Tensors.pack({
            name: dice.normal(size=shape).astype(kind) for name, shape, kind in pattern.largest
        }))
        for _ in weights
    ]  # fmt: skip
    found = []
    for order in (range(12), dice.permutation(12)):
        method = Counts(lambda client: {"x": pattern}, lambda up: weights[sent.index(up)])
        replies = Replies(method)
        for client in order:
            replies.accept(replies.offer(client, sent[client]))
        replies.sort()
        moved = replies.moved("x", like((A, B)))
        found.append((moved.vector.tobytes(), replies.loss, replies.mean("loss"), [*replies.ups]))
    assert found[0] == found[1]


@pytest.mark.parametrize("pattern", [Vector, Exactly, NoLarger])
def test_memory_does_not_grow_with_the_number_of_clients(pattern: type[Exactly]):
    big = (("a", (256, 256), "float32"),)

    def peak(clients: int) -> int:
        replies = Replies(Counts(lambda client: {"x": pattern(big)}))  # type: ignore[arg-type]
        tracemalloc.start()
        for client in range(clients):
            replies.accept(replies.offer(client, Up(1, 1, 0.5, like(big, client))))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(120) < peak(40) + 2**17, "half a reply"
