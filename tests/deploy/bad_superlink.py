"""A SuperLink that knows one node and answers its calls with the errors that a test names."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from flwr.proto import fleet_pb2, fleet_pb2_grpc, heartbeat_pb2


class BadSuperLink(fleet_pb2_grpc.FleetServicer):
    """A context manager; ``errors`` has, for each call by name, what its next answers are.

    None is an answer without an error.
    """

    def __init__(self) -> None:
        self.errors: dict[str, list[grpc.StatusCode | None]] = {}
        self.answered: Counter[str] = Counter()
        self._server = grpc.server(ThreadPoolExecutor(4))
        fleet_pb2_grpc.add_FleetServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def _answer(self, name: str, context: grpc.ServicerContext, answer: Any) -> Any:
        if (errors := self.errors.get(name)) and (code := errors.pop(0)) is not None:
            context.abort(code, "made up")
        self.answered[name] += 1
        return answer

    def RegisterNode(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("RegisterNode", context, fleet_pb2.RegisterNodeFleetResponse(node_id=7))

    def ActivateNode(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("ActivateNode", context, fleet_pb2.ActivateNodeResponse(node_id=7))

    def DeactivateNode(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("DeactivateNode", context, fleet_pb2.DeactivateNodeResponse())

    def UnregisterNode(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("UnregisterNode", context, fleet_pb2.UnregisterNodeFleetResponse())

    def SendNodeHeartbeat(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = heartbeat_pb2.SendNodeHeartbeatResponse(success=True)
        return self._answer("SendNodeHeartbeat", context, answer)

    def PullMessages(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("PullMessages", context, fleet_pb2.PullMessagesResponse())
