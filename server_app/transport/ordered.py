"""Replies in a fixed order, one at a time, until all are in or the deadline has passed.

The order of a floating-point sum decides its last bits. Asking for one node after the other gives
every run the same order whatever the network does, and the server holds one reply at a time: the
others wait at the SuperLink.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.25


def collect(
    grid: Grid, sent: Sequence[tuple[int, str]], deadline: float
) -> Iterator[tuple[int, Message | None]]:
    """Yield (node, reply) for each (node, message id), in the order given.

    Parameters
    ----------
    deadline: on the clock of ``time.monotonic``; after it every reply that is there is still
        taken, and ``None`` stands for those that are not.
    """
    for node, message_id in sent:
        pause = FIRST_PAUSE
        while (reply := next(iter(grid.pull_messages([message_id])), None)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
        yield node, reply
