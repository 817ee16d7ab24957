"""Wait for a reply; and for several, in a fixed order, one at a time.

The order of a floating-point sum decides its last bits. Asking for one node after the other gives
every run the same order whatever the network does, and the server holds one reply at a time: the
others wait at the SuperLink.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.25


def pull(grid: Grid, message_id: str) -> Message | None:
    """The reply to a message, if it is there."""
    return next(iter(grid.pull_messages([message_id])), None)


def await_reply(
    grid: Grid, message_id: str, deadline: float, hopeless: Callable[[], bool]
) -> Message | None:
    """The reply to a message.

    Parameters
    ----------
    deadline: on the clock of ``time.monotonic``; a reply that is there is taken after it, too.
    hopeless: asked between two looks; where it says so, nothing more is waited for.
    """
    pause = FIRST_PAUSE
    while (reply := pull(grid, message_id)) is None:
        left = deadline - time.monotonic()
        if left <= 0 or hopeless():
            return None
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
    return reply
