"""Send messages, also where the SuperLink is starting anew in the middle of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.errors import FleetError
from common.trouble import is_trouble
from server_app.transport.incomplete import LONGEST_TROUBLE, given_up

TIMES = 5
PAUSE = 1.0
LONGEST_PAUSE = 10.0


def push(grid: Grid, write: Callable[[], Sequence[Message]]) -> list[str | None]:
    """Send messages; the identity of each, None for one that was refused.

    A SuperLink that was killed while it took in the parts of a message forgets what it had of it
    (Flower 1.39: the push session expires, and its messages with it), so they are sent anew, and
    after an error as well. A device that thus gets a message twice learns from it once.

    Parameters
    ----------
    write: makes the messages; anew each time, for a message has one identity.

    Raises
    ------
    FleetError: the SuperLink does not take them.
    """
    lost: ObjectPushError | None = None
    losses, pause, end = 0, PAUSE, time.monotonic() + LONGEST_TROUBLE
    while losses < TIMES:
        messages = write()
        try:
            ids: list[str | None] = list(grid.push_messages(messages)) if messages else []
        except ObjectPushError as error:
            lost, losses = error, losses + 1
            time.sleep(PAUSE)
            continue
        except httpx.HTTPStatusError as error:
            if not is_trouble(error):
                raise
            if time.monotonic() + pause > end:
                raise given_up(error) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            continue
        if len(ids) != len(messages):
            raise FleetError(
                "the SuperLink refuses the messages to the nodes as too large; the last checkpoint "
                "is kept. Take a smaller model, or raise the limit of what stands before it"
            )
        return ids
    raise FleetError(
        f"the SuperLink has lost the messages to the nodes {TIMES} times in a row; the last "
        f"checkpoint is kept, resume the run when it is well: {lost}"
    )
