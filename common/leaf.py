"""Contract: what a server and a leaf tell each other.

A leaf stands between a server and devices of its own. It hands messages on to them, and gives back
what they answered: of replies to train the sum, and of each what is no tensor.
"""

from dataclasses import dataclass
from typing import Annotated

from common.contract import Between
from common.tensors import Tensors

KIND = "leaf"
"""Message type, after ``query.``."""

END = "end"
"""``kind`` of the last message of a run."""


SERVES, ASKS = "serves", "asks"
"""First words at the leaf's socket: of the process that asks the devices, before its Flower run; of
one that was asked by the server above, before the run's token and its settings as JSON."""

FOUND, FAILED = b"+", b"-"
"""First byte of what comes back: records, or a text that says what is wrong."""


@dataclass(frozen=True)
class Down:
    """Messages for some of a leaf's devices; none, to ask who is there."""

    run: str  # token of the run
    config: str  # the run's flat settings, JSON
    classes: int  # of the data set
    round: int
    kind: str  # Flower's message type, such as "train.fedavg"; or ``END``, without messages
    seconds: Annotated[float, Between(0, 10**6)]  # until the leaf gives back what it has
    nodes: list[str]  # whom the messages are for, by the leaf's ids of Flower
    records: Tensors  # serialised records, uint8, named by number
    content: list[str]  # of each message the numbers of its records, with spaces between
    brief: str  # what is needed to look at replies to train, JSON; empty for other kinds


@dataclass(frozen=True)
class Up:
    """What came of it."""

    nodes: list[str]  # devices that are online
    names: list[str]  # under which their keys are registered at the leaf
    activated: list[str]  # when they came online
    late: list[str]  # devices that are still at work on an earlier message
    answers: list[str]  # of each message what came of it, JSON
    content: Tensors  # serialised replies that are handed on as they are, uint8, by node
    sums: Tensors | None  # of replies to train, by ``Replies.parts``
