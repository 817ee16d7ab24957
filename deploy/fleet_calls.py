"""What a SuperNode's calls carry: a signature that serves for a while, and when to ask again.

Flower 1.39 signs the time anew for each call, 0.4 ms on a PC and ten times that on a small board,
and the SuperLink checks each signature. As it takes a time that is five minutes old, one signature
serves for a minute here, which the SuperLink checks once (``superlink_adaptations/signatures.py``).
One of AugFlower says in its answers how long a node should rest before it asks for messages again
(``superlink_adaptations/polls.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from deploy.adaptation import Adaptation

SIGNED_FOR = 60.0
"""Seconds for which a signature serves."""
SHORTEST, LONGEST = 0.02, 120.0
"""Seconds that a node rests, whatever it is told."""

FINGERPRINTS = {
    "intercept_unary_unary": "88f582715ad4f2be8942ad0910b14b9a5b56e0824d111e88128e82cb28f8e383",
    "grpc_request_response": "2ca8b86b327f4d3eaf40fd91e0156c6384c1f70327e7ad1b7612db53b012713f",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


class Advice:
    """What the SuperLink last said of when to ask again.

    Attributes
    ----------
    rest: seconds; None where it has not said it.
    """

    def __init__(self) -> None:
        self.rest: float | None = None

    def hear(self, answer: Any) -> None:
        """Take an answer to PullMessages."""
        told = answer.reconnect.reconnect / 1000
        self.rest = min(max(told, SHORTEST), LONGEST) if told else None


def fleet_calls(advice: Advice) -> Adaptation:
    """The adaptation of a SuperNode; ``advice`` follows what its SuperLink says."""
    return Adaptation(
        name="fleet calls",
        loss="each call is signed anew, and the SuperLink cannot say when to ask again",
        fingerprints=FINGERPRINTS,
        functions=_functions,
        apply=partial(_apply, advice),
    )


def _functions() -> dict[str, Any]:
    from flwr.client.grpc_rere_client import connection
    from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor

    return {
        "intercept_unary_unary": NodeAuthClientInterceptor.intercept_unary_unary,
        "grpc_request_response": connection.grpc_request_response,
    }


def _apply(advice: Advice, clock: Callable[[], float] = time.monotonic) -> None:
    from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
    from flwr.proto.fleet_pb2 import PullMessagesRequest

    sign = NodeAuthClientInterceptor.intercept_unary_unary

    def intercept_unary_unary(
        self: Any, continuation: Callable[[Any, Any], Any], details: Any, request: Any
    ) -> Any:
        signed_at, metadata = vars(self).get("_augflower_signed", (0.0, None))
        if metadata is None or clock() - signed_at > SIGNED_FOR:
            found: list[Any] = []
            # Flower's own interceptor signs; what it would send with the call is kept.
            sign(self, lambda signed, _: found.append(signed), details, request)
            before = list(details.metadata or [])
            metadata = found[0].metadata[len(before) :]
            vars(self)["_augflower_signed"] = clock(), metadata
        signed = details._replace(metadata=[*(details.metadata or []), *metadata])
        call = continuation(signed, request)
        if isinstance(request, PullMessagesRequest) and call.exception() is None:
            advice.hear(call.result())
        return call

    kind: Any = NodeAuthClientInterceptor
    kind.intercept_unary_unary = intercept_unary_unary
