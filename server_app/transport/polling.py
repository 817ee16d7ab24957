"""Wait for a reply; and for several, in a fixed order, one at a time.

The order of a floating-point sum decides its last bits. Asking for one node after the other gives
every run the same order whatever the network does, and the server holds one reply at a time: the
others wait at the SuperLink.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.25


UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DecodeError)
"""What Flower raises where it puts a reply together that a node has put together badly."""


@dataclass(frozen=True)
class Unreadable:
    """Stands for a reply that is none."""

    reason: str


def pull(grid: Grid, message_id: str) -> Message | Unreadable | None:
    """The reply to a message, with an error or with content, if it is there."""
    try:
        reply = next(iter(grid.pull_messages([message_id])), None)
        if reply is None or reply.has_error() or reply.has_content():
            return reply
    except UNREADABLE as error:
        return Unreadable(f"cannot be read: {type(error).__name__}: {error}")
    return Unreadable("has neither content nor error")


def await_reply(
    grid: Grid, message_id: str, deadline: float, hopeless: Callable[[], bool]
) -> Message | Unreadable | None:
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
