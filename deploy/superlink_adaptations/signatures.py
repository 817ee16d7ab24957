"""A signature is checked once: devices use one for a while (``deploy/fleet_calls.py``).

Every call to the Fleet API carries a time signed with the device's key, which Flower 1.39 takes for
five minutes. It checks the P-384 signature at each call, in the one thread that serves all: 0.8 ms,
half of what an idle device costs. Only signatures that are right are remembered, with the very key
and time that they are of; that the time has not passed is still looked at in each call.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from deploy.adaptation import Adaptation

MOST = 20_000
"""Signatures remembered; the one that was used longest ago is forgotten first."""

FINGERPRINTS = {
    "intercept_service": "8583e6f5febd8ed24574c8a3960270bb42f40b3df7c8498fa184966d63e51502",
    "bytes_to_public_key": "de83bfa0fba75607804c55bf69c1a4aa385ea77cdba1e169726ddd69a05a59bb",
    "verify_signature": "d13a709b0710fc57b540e1fa9427b7f415d904a7000cef3b0ee714f149df1e93",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""

Signed = tuple[bytes, bytes, bytes]


class Verified:
    """Signatures that were right; safe to use from several threads."""

    def __init__(self, check: Callable[[bytes, bytes, bytes], bool], most: int = MOST) -> None:
        """``check``: of key, message and signature."""
        self._check, self._most = check, most
        self._known: OrderedDict[Signed, None] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether a signature is right."""
        signed = (key, message, signature)
        with self._lock:
            if signed in self._known:
                self._known.move_to_end(signed)
                return True
        if not self._check(*signed):
            return False
        with self._lock:
            self._known[signed] = None
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return True


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
        NodeAuthServerInterceptor,
    )
    from flwr.supercore.primitives import asymmetric

    return {
        "intercept_service": NodeAuthServerInterceptor.intercept_service,
        "bytes_to_public_key": asymmetric.bytes_to_public_key,
        "verify_signature": asymmetric.verify_signature,
    }


def _apply() -> None:
    from flwr.server.superlink.fleet.grpc_rere import node_auth_server_interceptor

    module: Any = node_auth_server_interceptor  # it does not export the names that it imports
    parse, verify = module.bytes_to_public_key, module.verify_signature
    # The interceptor parses the key for this check alone, and before it: it gets the bytes back.
    module.bytes_to_public_key = bytes
    module.verify_signature = Verified(
        lambda key, message, signature: verify(parse(key), message, signature)
    )


ADAPTATION = Adaptation(
    name="signatures",
    loss="each call of a device costs the SuperLink twice as much",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
