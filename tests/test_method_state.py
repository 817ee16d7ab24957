"""Every server half: a pure function of its declared state and of the replies that count."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.tensors import Tensors
from server_app.aggregation.expected import Vector
from server_app.aggregation.replies import Replies
from server_app.method import Method
from server_app.saved import load, save
from server_app.validation.errors import Rejected
from tests.made_replies import METHODS, TRAINED, play, reply, server
from tests.test_saved import equal, through_a_file

CLIENTS = 4


def same(one: Method, other: Method) -> bool:
    return equal(save(one), save(other))


def nothing(replies: Replies, client: int, up: Any) -> None:
    """A client that does not answer."""


def accept(replies: Replies, client: int, up: Any) -> None:
    replies.accept(replies.offer(client, up))


def look(replies: Replies, client: int, up: Any) -> None:
    """As the gate does with what it then finds too long, or not finite."""
    replies.offer(client, up)
    with suppress(Rejected), np.errstate(all="ignore"):
        replies.offer(client, spoiled(up))


def refuse(replies: Replies, client: int, up: Any) -> None:
    """What the method itself cannot use."""
    for wrong in ({"base": 77}, {"dual": [9.0] * 64}, {"without": "no room", "teachers": 3}):
        if wrong.keys() <= vars(up).keys():
            with pytest.raises(Rejected):
                replies.offer(client, replace(up, **wrong))


def spoiled(up: Any) -> Any:
    """With NaN in all its tensors."""
    values = {}
    for field in fields(up):
        value = getattr(up, field.name)
        if isinstance(value, Tensors):
            vectors = {k: v * v.dtype.type(math.nan) if v.dtype.kind == "f" else v
                       for k, v in value.vectors.items()}  # fmt: skip
            values[field.name] = Tensors(value.specs, vectors)
    return replace(up, **values)


LOOKS = {"nothing": nothing, "look": look, "refuse": refuse}


@pytest.mark.parametrize("name", TRAINED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_look_leaves_no_trace(name: str, data: st.DataObject):
    """Replies that are not accepted: before, after and between those that are, also of the same
    client."""
    one, other = server(name, CLIENTS), server(name, CLIENTS)
    for round in range(1, 4):
        plain, looked = Replies(one), Replies(other)
        counts = data.draw(st.permutations(range(CLIENTS)))[: data.draw(st.integers(1, CLIENTS))]
        for client in counts:
            up = reply(one, round, client, seed=1)
            accept(plain, client, up)
            for _ in range(data.draw(st.integers(0, 2))):
                try_ = LOOKS[data.draw(st.sampled_from(sorted(LOOKS)))]
                at = data.draw(st.integers(0, CLIENTS - 1))
                scale = data.draw(st.sampled_from([0.01, 100.0]))
                try_(looked, at, reply(other, round, at, 2, scale))
            accept(looked, client, up)
            if data.draw(st.booleans()):
                look(looked, client, reply(other, round, client, seed=3))
        assert same(one, other)
        assert equal(one.step(round, plain), other.step(round, looked))
        assert same(one, other)


@pytest.mark.parametrize("name", TRAINED)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_order_in_which_replies_come_does_not_matter(name: str, data: st.DataObject):
    one, other = server(name, CLIENTS), server(name, CLIENTS)
    for round in range(1, 4):
        plain, mixed = Replies(one), Replies(other)
        ups = {client: reply(one, round, client, seed=1, scale=0.3) for client in range(CLIENTS)}
        for client in range(CLIENTS):
            accept(plain, client, ups[client])
        for client in data.draw(st.permutations(range(CLIENTS))):
            accept(mixed, client, ups[client])
        mixed.sort()
        assert mixed.loss == plain.loss
        assert equal(one.step(round, plain), other.step(round, mixed))
        assert same(one, other)


@pytest.mark.parametrize("name", TRAINED)
def test_a_round_without_a_step_leaves_no_trace(name: str):
    one, other = server(name, CLIENTS), server(name, CLIENTS)
    play(one, range(1, 3), CLIENTS)
    play(other, range(1, 3), CLIENTS)
    void = Replies(other)
    for client in range(CLIENTS):
        accept(void, client, reply(other, 3, client, seed=5))
    assert same(one, other)
    assert equal(play(one, range(4, 6), CLIENTS), play(other, range(4, 6), CLIENTS))
    assert same(one, other)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_state_and_replies_give_the_same_state(name: str):
    one, other = server(name, CLIENTS), server(name, CLIENTS)
    for round in range(1, 5):
        metrics = [rounds(method, round) for method in (one, other)]
        assert equal(*metrics)
        assert same(one, other)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_leaves_older_states_what_they_were(name: str):
    method = server(name, CLIENTS)
    for round in range(1, 4):
        before = save(method)
        copy = save(again := server(name, CLIENTS))
        load(again, before)
        copy = through_bytes(save(again))
        rounds(method, round)
        assert equal(through_bytes(before), copy)
        if method.down is None or method.expects(0):
            assert not equal(before, save(method)), "a step does something"


def through_bytes(state: Any) -> Any:
    groups, notes = state
    return {name: [v.tobytes() for v in t.vectors.values()] for name, t in groups.items()}, notes


@pytest.mark.parametrize("name", METHODS)
def test_what_is_declared_is_enough_to_go_on(name: str, tmp_path: Path):
    """Killed and resumed from its checkpoint after any round."""
    whole = server(name, CLIENTS)
    states = []
    for round in range(1, 6):
        rounds(whole, round)
        states.append(through_a_file(save(whole), tmp_path))
    for after, state in enumerate(states, 1):
        resumed = server(name, CLIENTS)
        load(resumed, state)
        for round in range(after + 1, 6):
            rounds(resumed, round)
        assert same(whole, resumed), f"resumed after round {after}"


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_declared_knows_who_has_left_and_where_the_run_went_back_to(
    name: str, tmp_path: Path
):
    def disturbed(method: Method, round: int) -> None:
        rounds(method, round)
        if round == 2:
            method.leave([1])
        if round == 3:
            method.go_back(method.setup.model, method.setup.buffers, blamed=False)

    whole = server(name, CLIENTS)
    states = []
    for round in range(1, 6):
        disturbed(whole, round)
        states.append(through_a_file(save(whole), tmp_path))
    for after, state in enumerate(states, 1):
        resumed = server(name, CLIENTS)
        load(resumed, state)
        for round in range(after + 1, 6):
            disturbed(resumed, round)
        assert same(whole, resumed), f"resumed after round {after}"


@pytest.mark.parametrize("name", TRAINED)
def test_what_all_send_is_the_mean(name: str):
    """Sums and divisors agree: equal vectors of clients of all sizes have that vector for mean."""
    method = server(name, CLIENTS)
    replies, sent = Replies(method), reply(method, 1, 0, seed=4)
    for client in range(CLIENTS):
        accept(replies, client, replace(sent, examples=10 + client))
    for field, pattern in method.expects(0).items():
        came = getattr(sent, field)
        if field in method.collects:
            assert all(equal(one, came) for one in replies.each(field).values())
        elif field in replies.norms and came.vectors.keys() == {"float32"}:
            means = replies.average(field) if isinstance(pattern, Vector) else None
            mean = means or replies.averaged(field, Tensors((), {}))
            for name, array in came.unpack().items():
                np.testing.assert_allclose(mean.unpack()[name], array, rtol=1e-5)
    assert replies.loss == pytest.approx(sent.loss)
    assert replies.mean("loss") == pytest.approx(sent.loss)


def rounds(method: Method, round: int) -> list[dict[str, float]]:
    """One round; those without clients just step."""
    if method.up is None:
        return [method.step(round, Replies(method))]
    return play(method, range(round, round + 1), CLIENTS)
