"""Send messages, also where the SuperLink is starting anew in the middle of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.errors import FleetError

TIMES = 5
PAUSE = 1.0


def push(grid: Grid, write: Callable[[], Sequence[Message]]) -> list[str | None]:
    """Send messages; the identity of each, None for one that was refused.

    A SuperLink that was killed while it took in the parts of a message forgets what it had of it
    (Flower 1.39: the push session expires, and its messages with it), so they are sent anew.

    Parameters
    ----------
    write: makes the messages; anew each time, for a message has one identity.

    Raises
    ------
    FleetError: the SuperLink does not take them.
    """
    lost: ObjectPushError | None = None
    for _ in range(TIMES):
        messages = write()
        try:
            ids: list[str | None] = list(grid.push_messages(messages)) if messages else []
        except ObjectPushError as error:
            lost = error
            time.sleep(PAUSE)
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
