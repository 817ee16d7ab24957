"""Few calls of devices are worked on at a time; the others wait without waking each other.

Flower 1.39 gives each call a thread, up to 1,000, and Python lets one of them compute at a time.
Each of the others wakes every few milliseconds to ask for its turn, and with a database each
statement gives the turn away: 50 devices make a SuperLink spend more on that than on their calls.
A message is received and sent outside of these turns, so that a slow line holds up nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from deploy.adaptation import Adaptation

AT_ONCE = 4
"""Calls of the Fleet API that are worked on at a time."""

CALLS = (
    "ActivateNode", "SendNodeHeartbeat", "PullMessages", "PushMessages", "GetRun", "GetFab",
    "PushObject", "PullObject", "ConfirmMessageReceived",
)  # fmt: skip

FINGERPRINTS = {
    "ActivateNode": "6a858e60e3a88ac1230ff8848707dff1e785d17d057a13b4e49c08f2fd5249bf",
    "SendNodeHeartbeat": "a51281424fa91df107dd1fe4cf62542f34821dd64276dd964a674ac5f6c3c065",
    "PullMessages": "2a11e6bcee94d7f185d5423bb57a8bd9231744ad1ee1fca60365f840de571b58",
    "PushMessages": "8ad6cda123acbf35df2c899169a1fe893ef081feaf172db2bb9d938d597f2efa",
    "GetRun": "defa2cc4b6a7e11af54c87ca85d52fe9329d40c2f7531aaff6169b699d828b05",
    "GetFab": "83ec3a6f703ab2116f7d0db21cb6142d03af69bb9c94f6ac9015e748842faa0f",
    "PushObject": "460890accee517647e71de2dff4e0ff78aedc4aa197074e53a37fe4417cc9f80",
    "PullObject": "9512f6b2fa16867efe6d53b7730d1ea66affe4666a452633f221b34828a44f45",
    "ConfirmMessageReceived": "d37a80f19def6f9921bad736fe535d9caf48883bc6a624f5043f927381340710",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer

    return {name: getattr(FleetServicer, name) for name in CALLS}


def _apply() -> None:
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer

    places = threading.BoundedSemaphore(AT_ONCE)

    def in_turn(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def wait(self: Any, request: Any, context: Any) -> Any:
            with places:
                return call(self, request, context)

        return wait

    for name in CALLS:
        setattr(FleetServicer, name, in_turn(getattr(FleetServicer, name)))


ADAPTATION = Adaptation(
    name="crowding",
    loss="many calls at a time cost more than one after the other",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
