"""Who may say that a node is there: only the holder of its key.

Every call to Flower's Fleet API is signed, and for all but two the signer must be the node that
the call is about. Those that register and activate a node name it by its public key, which Flower
1.39 does not compare with the signer's. So anybody, even with a key that was never admitted, can
mark an absent device as online, with a heartbeat that is due in half an hour: the device is
refused for up to an hour when it comes, for it is there already, and rounds wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deploy.adaptation import Adaptation

REFUSAL = "The call names another public key than the one that has signed it"

FINGERPRINTS = {
    "intercept_service": "8583e6f5febd8ed24574c8a3960270bb42f40b3df7c8498fa184966d63e51502",
    "_wrap_method_handler": "fb5f8c399295279533486bec0fb67c1c9f6cea01886b2d73ba0d0e0aeff84f42",
    "activate_node": "e215802302460a91d5468065ab0c648a33c90cfc3bbb5e236e05e23e064e8d18",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.fleet.grpc_rere import node_auth_server_interceptor as auth
    from flwr.server.superlink.fleet.message_handler import message_handler

    interceptor = auth.NodeAuthServerInterceptor
    return {
        "intercept_service": interceptor.intercept_service,
        "_wrap_method_handler": interceptor._wrap_method_handler,
        "activate_node": message_handler.activate_node,
    }


def _apply() -> None:
    import grpc
    from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
        NodeAuthServerInterceptor,
    )

    wrap: Callable[..., grpc.RpcMethodHandler] = NodeAuthServerInterceptor._wrap_method_handler

    def wrap_method_handler(
        self: NodeAuthServerInterceptor,
        method_handler: grpc.RpcMethodHandler,
        received_public_key: bytes,
    ) -> grpc.RpcMethodHandler:
        checked = wrap(self, method_handler, received_public_key)

        def call(request: Any, context: grpc.ServicerContext) -> Any:
            named = getattr(request, "public_key", received_public_key)
            if named != received_public_key:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
            return checked.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=checked.request_deserializer,
            response_serializer=checked.response_serializer,
        )

    NodeAuthServerInterceptor._wrap_method_handler = wrap_method_handler  # type: ignore[method-assign]


ADAPTATION = Adaptation(
    name="activation",
    loss="anybody who knows a device's public key can mark it as online and keep it out",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
