"""What can be wrong with a reply of AugFL: each entry spoils an honest one, and names the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.serde import message_from_proto, message_to_proto

from common.methods import fedavg
from common.sketch import sketch
from common.wire import PLAIN

Spoil = Callable[[Message, list[Message]], Message | None]
"""(reply, the same node's earlier replies) -> what arrives; ``None`` if ``reply`` was changed."""


def copy(message: Message) -> Message:
    """A reply of its own, with the same content and metadata."""
    return message_from_proto(message_to_proto(message))


def vector(reply: Message) -> np.ndarray:
    return np.frombuffer(reply.content[PLAIN]["increment.float32"], "<f4").copy()


def put(reply: Message, data: Any, dtype: str = "float32") -> None:
    """Another vector, of one dtype."""
    del reply.content[PLAIN]["increment.float32"]
    reply.content[PLAIN][f"increment.{dtype}"] = data


def plain(**values: Any) -> Spoil:
    return lambda reply, _: reply.content[PLAIN].update(values)


def without(name: str) -> Spoil:
    return lambda reply, _: reply.content[PLAIN].pop(name) and None


def meta(**values: Any) -> Spoil:
    def spoil(reply: Message, _: list[Message]) -> None:
        for name, value in values.items():
            reply.metadata.__dict__[f"_{name}"] = value

    return spoil


def specs(column: str, change: Callable[[list[str]], list[str]]) -> Spoil:
    def spoil(reply: Message, _: list[Message]) -> None:
        key = f"increment.{column}"
        reply.content[PLAIN][key] = change(list(reply.content[PLAIN][key]))

    return spoil


def values(change: Callable[[np.ndarray], np.ndarray], consistent: bool = False) -> Spoil:
    """Change the vector, and the echo of the dual with it if the liar is consistent."""

    def spoil(reply: Message, _: list[Message]) -> None:
        old = vector(reply)
        new = change(old).astype("<f4")
        if consistent:
            dual = np.array(reply.content[PLAIN]["dual"]) + sketch(new) - sketch(old)
            reply.content[PLAIN]["dual"] = dual.tolist()
        put(reply, new.tobytes())

    return spoil


def extra(name: str, record: Any) -> Spoil:
    return lambda reply, _: reply.content.__setitem__(name, record)


def replay(**edits: Any) -> Spoil:
    """The content of two rounds ago, with some fields brought up to date."""

    def spoil(reply: Message, earlier: list[Message]) -> None:
        now = dict(reply.content[PLAIN])
        old = copy(earlier[-2])
        old.content[PLAIN].update({name: now[name] for name in edits})
        reply.content = old.content

    return spoil


def poke(position: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(old: np.ndarray) -> np.ndarray:
        new = old.copy()
        new[position] = value
        return new

    return change


def hollow(reply: Message, _: list[Message]) -> None:
    reply.__dict__["_content"] = None


def unreadable(reply: Message, _: list[Message]) -> None:
    raise KeyError("an object that the message names is not in it")


def foreign(reply: Message, _: list[Message]) -> None:
    reply.content[PLAIN]["contract"] = f"{fedavg.__name__}.Up"


def hole(reply: Message, _: list[Message]) -> None:
    """A vector in three pieces, of which the second is missing."""
    data = reply.content[PLAIN]["increment.float32"]
    reply.content[PLAIN].update({"increment.float32": data[:40], "increment.float32.2": data[40:]})


ARRAYS = ArrayRecord({str(i): Array("bool", (1,), "", b"x") for i in range(9)})
MANY = {f"r{i}": ConfigRecord({}) for i in range(40)}
TABLE: dict[str, tuple[Spoil, str]] = {
    "an evaluation that nobody asked for": (
        extra("evaluation", ConfigRecord({"clients": [0]})),
        "clients",
    ),
    # the vector
    "one value is NaN": (values(poke(7, np.nan)), "increment"),
    "one value is infinite": (values(poke(7, np.inf)), "increment"),
    "too long to be squared": (values(lambda v: v + 1e30), "increment"),
    "ten thousand times too long": (values(lambda v: 1e4 * v, consistent=True), "increment"),
    "one value is huge": (values(poke(7, 1e5), consistent=True), "increment"),
    "another vector": (values(lambda v: v[::-1]), "dual"),
    "all zero": (values(lambda v: 0 * v), "dual"),
    "the other sign": (values(lambda v: -v), "dual"),
    "half missing": (values(lambda v: np.where(np.arange(v.size) < v.size / 2, v, 0)), "dual"),
    # how it is stored
    "cut short": (lambda r, _: put(r, vector(r).tobytes()[:-4]), "increment"),
    "too many bytes": (lambda r, _: put(r, bytes(99_999)), "increment"),
    "a value too many": (values(lambda v: np.append(v, 0)), "increment"),
    "text in place of bytes": (lambda r, _: put(r, "0" * 4 * vector(r).size), "increment"),
    "of doubles": (lambda r, _: put(r, vector(r).astype("<f8").tobytes(), "float64"), "increment"),
    "no vector": (without("increment.float32"), "increment"),
    "two vectors": (plain(**{"increment.int64": b""}), "increment"),
    "a piece missing": (hole, "increment"),
    "a piece too many": (plain(**{"increment.float32.1": b"1234"}), "increment"),
    "a field twice": (extra("more", ConfigRecord({"round": 3})), "round"),
    # its names and shapes
    "no names": (without("increment.names"), "increment"),
    "another name": (specs("names", lambda n: ["x", *n[1:]]), "increment"),
    "a name twice": (specs("names", lambda n: [n[1], *n[1:]]), "increment"),
    "a name too few": (specs("names", lambda n: n[1:]), "increment"),
    "names in another order": (specs("names", lambda n: n[::-1]), "increment"),
    "axes in another order": (
        specs("shapes", lambda s: ["x".join(reversed(s[0].split("x"))), *s[1:]]), "increment"
    ),
    "a huge shape": (specs("shapes", lambda s: ["99999999999x99999999999", *s[1:]]), "increment"),
    "a negative shape": (specs("shapes", lambda s: ["-1", *s[1:]]), "increment"),
    "objects": (specs("dtypes", lambda d: ["object", *d[1:]]), "increment"),
    # numbers
    "no examples": (plain(examples=0), "examples"),
    "negative examples": (plain(examples=-39), "examples"),
    "more examples than enrolled": (plain(examples=10**12), "examples"),
    "examples as a float": (plain(examples=30.0), "examples"),
    "loss is NaN": (plain(loss=float("nan")), "loss"),
    "loss is infinite": (plain(loss=float("inf")), "loss"),
    "loss below zero": (plain(loss=-1.0), "loss"),
    "absurd loss": (plain(loss=1e12), "loss"),
    "curvature below zero": (plain(curvature=-1.0), "curvature"),
    "absurd curvature": (plain(curvature=1e30), "curvature"),
    "curvature over all bounds": (plain(curvature=2e6), "curvature"),
    # which dual, which round
    "base of the future": (plain(base=999), "base"),
    "base below zero": (plain(base=-1), "base"),
    "echo of another dual": (plain(dual=[1.0] * 8), "dual"),
    "echo too short": (plain(dual=[1.0] * 7), "dual"),
    "echo of text": (plain(dual=["a"] * 8), "dual"),
    "an earlier round": (plain(round=1), "round"),
    "a later round": (plain(round=10**6), "round"),
    "round as a bool": (plain(round=True), "round"),
    "replayed": (replay(), "round"),
    "replayed as of now": (replay(round=1), "base"),
    "replayed on the new dual": (replay(round=1, base=1), "dual"),
    "the very same reply twice": (lambda _, earlier: copy(earlier[-1]), "reply-to"),
    # the contract
    "a field missing": (without("loss"), "loss"),
    "a field too many": (plain(weight=1.0), "weight"),
    "a record too many": (extra("more", ConfigRecord({"note": 1})), "note"),
    "metrics as well": (extra("metrics", MetricRecord({"accuracy": 1.0})), "metrics"),
    "of another method": (foreign, "contract"),
    "of another release": (plain(**{"wire-version": 99}), "wire-version"),
    "no fields at all": (lambda r, _: r.content.pop(PLAIN) and None, "wire-version"),
    # the message
    "of another node": (meta(src_node_id=99), "node"),
    "of another run": (meta(run_id=77), "run"),
    "to another message": (meta(reply_to_message_id="in-process-1"), "reply-to"),
    "of another kind": (meta(message_type="train.fedavg"), "message-type"),
    "from no time": (meta(created_at=float("nan")), "created-at"),
    "neither content nor error": (hollow, "message"),
    "put together badly": (unreadable, "message"),
    # size
    "forty records": (lambda r, _: r.content.update(MANY), "size"),
    "arrays": (extra("more", ARRAYS), "more"),
    "megabytes of data": (values(lambda v: np.zeros(10**6)), "size"),
    "megabytes of text": (plain(note="x" * 2**21), "size"),
    "a million names": (specs("names", lambda n: ["a"] * 10**6), "size"),
}  # fmt: skip
