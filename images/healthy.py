"""Exit with 0 if a process of the fleet is well: the health check of the images.

python3 healthy.py tcp|http|grpc ADDRESS
"""

from __future__ import annotations

import socket
import sys
import urllib.request

TIMEOUT = 5.0


def tcp(address: str) -> None:
    """Somebody listens."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), TIMEOUT).close()


def http(address: str) -> None:
    """The page answers with 200."""
    urllib.request.urlopen(f"http://{address}", timeout=TIMEOUT).close()


def grpc(address: str) -> None:
    """The health service says that it serves."""
    from grpc import insecure_channel
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with insecure_channel(address) as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT)
    if answer.status != HealthCheckResponse.SERVING:
        sys.exit(f"{address} does not serve")


if __name__ == "__main__":
    {"tcp": tcp, "http": http, "grpc": grpc}[sys.argv[1]](sys.argv[2])
