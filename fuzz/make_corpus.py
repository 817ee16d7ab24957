"""Write the seed corpus: one honest message of each kind, and some that are nearly honest.

python -m fuzz.make_corpus
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from common import enrolment, evaluation
from common.methods import augfl, fed_lpfm, fedavg
from common.sgd import LocalSgd
from common.sketch import NUMBERS
from common.tensors import Tensors
from common.wire import PLAIN, pack
from fuzz.target import BUFFERS, CONTRACTS, MODEL

NEARLY: dict[str, Any] = {
    "sgd.rate": 1.0, "sgd.lr.more": 1.0, "sgd.": 1, "sgd": 1.0, "sgd.lr": -1.0, "sgd.epochs": True,
    "sgd.batch_size": 8, "loss": "KL", "augmentation": b"crop", "without": ["no room"],
    "change.float32": "1" * 32, "change.float32.1": b"more", "change.float32.2": b"", "change": b"",
    "increment.names": ["weight", "weight"], "increment.shapes": ["2x-3", "2"],
    "increment.dtypes": [1.0], "buffers.int64": 7, "buffers.more": True,
}  # fmt: skip
"""Nested settings, tensors, and fields of few values, that do not fit."""

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Replace the corpus."""
    CORPUS.mkdir(exist_ok=True)
    for old in CORPUS.iterdir():
        old.unlink()
    for seed in seeds():
        (CORPUS / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    print(f"{len(list(CORPUS.iterdir()))} seeds in {CORPUS}")


def seeds() -> Iterator[bytes]:
    """Each contract, whole, and with one thing missing or too much."""
    evaluated = evaluation.Up([3, 4], [12, 8], [3, 4], [6, 8], [5, 4], [1.5, 1.0], [0.5, 0.25])
    introduction = enrolment.Up(
        "target", [3, 4], 8, 20, 0, "cnn-tiny", ["cat", "dog"], 5, "digest", "1", 0.5, 2**30, 0.1
    )
    model, buffers = (_tensors(specs) for specs in (MODEL, BUFFERS))
    for up in (
        augfl.Up(3, 30, 0.5, 2, model, [0.5] * NUMBERS, 1.0),
        augfl.Up(1, 1, 0.0, 0, model, [0.0] * NUMBERS, 0.0),
        fedavg.Up(3, 30, 0.5, model, buffers),
        fed_lpfm.Up(3, 30, 0.5, model, buffers, 0.1, 1, 0, ""),
        evaluated,
        introduction,
        fed_lpfm.Down(3, 7, model, buffers, 0.5, 2.0, "kl", 8.0, LocalSgd(), "crop"),
    ):
        yield _message(up, pack(up))
        whole = pack(up)
        for name in list(whole):
            record = pack(up)
            del record[name]
            yield _message(up, record)
        for key in list(whole[PLAIN]):
            record = pack(up)
            del record[PLAIN][key]
            yield _message(up, record)
        for key, value in NEARLY.items():
            if key.partition(".")[0] in {name.partition(".")[0] for name in whole[PLAIN]}:
                record = pack(up)
                record[PLAIN][key] = value
                yield _message(up, record)
        for name, more in (("c", ConfigRecord({"a": [1, 2]})), ("m", MetricRecord({"a": 1.0})),
                           ("a", ArrayRecord({}))):  # fmt: skip
            record = pack(up)
            record[name] = more
            yield _message(up, record)


def _tensors(specs: tuple[tuple[str, tuple[int, ...], str], ...]) -> Tensors:
    return Tensors.pack({name: np.ones(shape, dtype) for name, shape, dtype in specs})


def _message(up: object, record: RecordDict) -> bytes:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    sent = Message(RecordDict(), 2, "train")
    proto = message_to_proto(Message(record, reply_to=sent))
    proto.metadata.created_at, proto.metadata.ttl = 1.8e9, 60.0  # the same bytes each time
    return bytes([CONTRACTS.index(type(up))]) + proto.SerializeToString(deterministic=True)


if __name__ == "__main__":
    main()
