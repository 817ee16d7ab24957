"""What a device may push: so many parts and bytes a message, checked before Flower takes them in.

A message names its parts before it sends them. Flower 1.39 notes down each name in its database
within one transaction, however many there are: 20,000 made-up names, in 1.3 MB, lock it for two
minutes, and with it all other devices and the run. An honest message is one part, its content one,
and there is one for each record: mostly a single one, and another for each piece of a long vector.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.errors import SettingsError
from common.wire import PIECE
from deploy.adaptation import Adaptation

if TYPE_CHECKING:
    import grpc

LARGEST = "AUGFLOWER_SUPERLINK_LARGEST_MESSAGE"
"""Environment variable: megabytes of the largest message that a device may send."""
MEGABYTES = 1024
BESIDE = 64
"""Parts of a message beside those of full length."""
HEAD = 2**20
"""Bytes of the head of a message: who answers what, or why not, and the names of its parts."""
PART = 64 * 2**20
"""Bytes of one call, several times what one part has."""
_SUPERLINK = "flwr.superlink.cli.flower_superlink"  # its package has a function of that name
_SESSIONS = 10_000
"""Messages whose bytes are counted at a time; the oldest is forgotten."""

FINGERPRINTS = {
    "PushMessages": "8ad6cda123acbf35df2c899169a1fe893ef081feaf172db2bb9d938d597f2efa",
    "PushObject": "460890accee517647e71de2dff4e0ff78aedc4aa197074e53a37fe4417cc9f80",
    "push_messages": "0ff408f15ed2fec2f75ebe73df0e05cffd5b1e9c60a20ac19ef5e927b9d27819",
    "push_object": "b2d1d6f95ed65ab6cb5a508a3689c4c4122743b6ac7a8763343b5d5fed329b27",
    "_run_fleet_api_grpc_rere": "941cd68b2038181c9fdee31a565e4d4008b58128a5b809fdb884498ea6093f63",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


class Bounds:
    """Checks what devices push; safe to use from several threads.

    Attributes
    ----------
    parts: of a message, at most.
    size: bytes of all parts of a message, at most.
    """

    def __init__(self, megabytes: int = MEGABYTES) -> None:
        self.size = megabytes * 10**6
        self.parts = BESIDE + -(-self.size // PIECE)
        self._pushed: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def head(self, request: Any) -> str:
        """What is wrong with the head of a message; empty if nothing is."""
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            return "it is not one message with one tree of parts"
        trees, count = list(request.message_object_trees), 0
        while trees:
            count += 1
            trees += trees.pop().children
            if count > self.parts:
                return f"it names more than {self.parts} parts; {LARGEST} decides how many"
        if (size := request.ByteSize()) > HEAD:
            return f"its head has {size} bytes; {HEAD} are possible"
        return ""

    def part(self, request: Any) -> str:
        """What is wrong with a part of a message; empty if nothing is. Counts its bytes."""
        if not request.session_id:
            return "it does not say of which message it is"
        with self._lock:
            pushed = self._pushed.pop(request.session_id, 0) + len(request.object_content)
            self._pushed[request.session_id] = pushed
            if len(self._pushed) > _SESSIONS:
                self._pushed.popitem(last=False)
        if pushed > self.size:
            return f"its message has more than {self.size} bytes; {LARGEST} decides how many"
        return ""


def read_bounds(environment: Mapping[str, str] = os.environ) -> Bounds:
    """The bounds that the environment of the SuperLink asks for.

    Raises
    ------
    SettingsError: it is no whole number of megabytes.
    """
    value = environment.get(LARGEST) or str(MEGABYTES)
    if not (value.isascii() and value.isdecimal()) or not 0 < int(value) <= 10**6:
        raise SettingsError(f"{LARGEST}={value!r} is no number of megabytes from 1 to 1000000")
    return Bounds(int(value))


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
    from flwr.server.superlink.fleet.message_handler import message_handler

    module: Any = import_module(_SUPERLINK)
    return {
        "PushMessages": FleetServicer.PushMessages,
        "PushObject": FleetServicer.PushObject,
        "push_messages": message_handler.push_messages,
        "push_object": message_handler.push_object,
        "_run_fleet_api_grpc_rere": module._run_fleet_api_grpc_rere,
    }


def _apply() -> None:
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer

    bounds, servicer = read_bounds(), FleetServicer
    module: Any = import_module(_SUPERLINK)
    push_message, push_part = servicer.PushMessages, servicer.PushObject

    def PushMessages(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        _refuse(context, bounds.head(request), request)
        return push_message(self, request, context)

    def PushObject(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        _refuse(context, bounds.part(request), request)
        return push_part(self, request, context)

    setattr(servicer, "PushMessages", PushMessages)  # noqa: B010 (mypy knows the class)
    setattr(servicer, "PushObject", PushObject)  # noqa: B010
    module.GRPC_MAX_MESSAGE_LENGTH = PART


def _refuse(context: grpc.ServicerContext, reason: str, request: Any) -> None:
    """End the call if there is a reason to."""
    if reason:
        import grpc
        from flwr.supercore import log

        log(30, "Refused what node %s has pushed: %s", request.node.node_id, reason)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"refused: {reason}")


ADAPTATION = Adaptation(
    name="bounds",
    loss="one device can lock the SuperLink's database with a single message",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
