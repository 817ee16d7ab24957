"""A node that is a leaf: it hands on what it is asked to the process that asks the leaf's devices.

Both are of one machine and meet at a socket in a folder that nobody else may enter.
"""

from __future__ import annotations

from multiprocessing.connection import Client
from pathlib import Path

from flwr.app import RecordDict

from common import leaf
from common.errors import FleetError, SettingsError
from common.wire import from_bytes, to_bytes, unpack


def relay(content: RecordDict, socket: str) -> RecordDict:
    """What came of a question of the server above.

    Parameters
    ----------
    socket: of the leaf, from the node's settings.

    Raises
    ------
    SettingsError: this node is no leaf.
    FleetError: the leaf could not answer.
    """
    if not socket:
        raise SettingsError(
            "the server takes this node for a leaf, and it is none: start it with augflower leaf"
        )
    down = unpack(leaf.Down, content)
    try:
        with Client(str(Path(socket)), "AF_UNIX") as below:
            below.send_bytes(f"{leaf.ASKS} {down.run} {down.config}".encode())
            below.send_bytes(to_bytes(content))
            found = below.recv_bytes()
    except (OSError, EOFError) as error:
        raise FleetError(f"the leaf does not answer ({error!r}); see its log") from None
    if found[:1] != leaf.FOUND:
        raise FleetError(found[1:].decode(errors="replace"))
    return from_bytes(found[1:])
