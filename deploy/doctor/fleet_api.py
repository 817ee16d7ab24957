"""One harmless question to a SuperLink: would it take this key, at this time?

A request to activate a node is signed with the time and carries an impossible heartbeat interval.
The SuperLink checks time, key and interval in this order and refuses at the first that is wrong,
so the refusal tells which checks were passed, and no node's state changes. Each question leaves
a line in the server's log.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.supercore.date import now
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

AHEAD = float(SYSTEM_TIME_TOLERANCE)  # a signature may be this far in the server's future, s
BEHIND = float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)  # and this far in its past, s
Verdict = Literal["known", "unknown", "wrong time", "no answer"]


class FleetApi:
    """A connection to the Fleet API; close it, or use it in ``with``."""

    def __init__(
        self,
        address: str,
        key: ec.EllipticCurvePrivateKey,
        ca: bytes | None,
        *,
        insecure: bool = False,
        timeout: float = 5.0,
    ) -> None:
        self._channel = (
            grpc.insecure_channel(address)
            if insecure
            else grpc.secure_channel(address, grpc.ssl_channel_credentials(ca))
        )
        self._stub = FleetStub(self._channel)
        self._key, self._public = key, public_key_to_bytes(key.public_key())
        self._timeout = timeout
        self.reply = ""  # the last refusal, as the server worded it

    def __enter__(self) -> FleetApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, shift: float = 0.0) -> Verdict:
        """Ask with a signature of ``shift`` seconds after this clock's time."""
        time = (now() + timedelta(seconds=shift)).isoformat()
        metadata = (
            (PUBLIC_KEY_HEADER, self._public),
            (TIMESTAMP_HEADER, time),
            (SIGNATURE_HEADER, sign_message(self._key, time.encode("ascii"))),
        )
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=0)
        try:
            self._stub.ActivateNode(request, timeout=self._timeout, metadata=metadata)
        except grpc.RpcError as refusal:
            self.reply = refusal.details() or ""
        if self.reply == "Invalid timestamp":
            return "wrong time"
        known = FlowerError.from_json(self.reply)
        if known and known.code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return "known"
        if known and known.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return "unknown"
        return "no answer"

    def clock_lead(self, resolution: float = 0.5, reach: float = 7200.0) -> float | None:
        """By how many seconds this clock is ahead of the server's; ``None`` beyond ``reach``.

        Signatures are accepted within a window around the server's time. Its upper end is found
        by bisection, between a time inside of the window and one that is too late for it.
        """
        inside = next((s for s in _spread(reach) if self.ask(s) in {"known", "unknown"}), None)
        if inside is None:
            return None
        outside = inside + AHEAD + BEHIND
        while outside - inside > resolution:
            middle = (inside + outside) / 2
            if self.ask(middle) == "wrong time":
                outside = middle
            else:
                inside = middle
        return AHEAD - (inside + outside) / 2


def _spread(reach: float) -> list[float]:
    """0, then steps outwards that no window can slip through."""
    step = 0.9 * (AHEAD + BEHIND)
    count = int(reach / step)
    return [0.0, *(sign * step * n for n in range(1, count + 1) for sign in (1, -1))]
