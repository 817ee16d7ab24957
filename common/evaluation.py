"""Contract: adapt the model on a device's support set and judge it on its query set.

It is a message of its own for devices that only adapt. A device that trains can send ``Up`` along
with its method's reply (``evaluation.sources``): it has the model at hand already.
"""

from dataclasses import dataclass

from flwr.app import RecordDict

from common.tensors import Tensors
from common.wire import PLAIN, pack, unpack

PART = "evaluation"
"""Name of the judgement inside the reply of a method."""


@dataclass(frozen=True)
class Down:
    """The model to judge and how to adapt it."""

    model: Tensors  # theta, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    alpha: float  # adaptation rate
    steps: int  # adaptation steps k; 0 judges the model as it is
    statistics: str  # BatchNorm after adaptation: "support", "query" or "running"


@dataclass(frozen=True)
class Up:
    """One entry for each client that the node plays."""

    clients: list[int]
    examples: list[int]  # query images
    correct_before: list[int]  # of them, right without adaptation
    correct_after: list[int]  # of them, right after k steps
    loss_before: list[float]  # mean cross-entropy on the query set, nats
    loss_after: list[float]


def attach(record: RecordDict, up: Up) -> None:
    """Put a judgement into the reply of a method."""
    record[PART] = pack(up)[PLAIN]


def detach(record: RecordDict) -> Up | None:
    """Take the judgement out of the reply of a method, if there is one.

    Raises
    ------
    WireError: it is not a valid judgement.
    """
    part = record.config_records.get(PART)
    if part is None:
        return None
    del record[PART]
    return unpack(Up, RecordDict({PLAIN: part}))
