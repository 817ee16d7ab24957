"""Whether a server's address resolves and answers at all."""

from __future__ import annotations

import socket
import time

from common.errors import SettingsError
from deploy.doctor.finding import Finding, error, ok

TIMEOUT = 5.0  # seconds for each connection


def split_address(address: str) -> tuple[str, int]:
    """``host:port``, or ``[IPv6]:port``, in its two parts.

    Raises
    ------
    SettingsError: it has no port.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host.strip("[]") or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f"{address!r} is no address: write host:port, such as server:9092")
    return host.strip("[]"), int(port)


def check_reachable(host: str, port: int, timeout: float = TIMEOUT) -> Finding:
    """Resolve the name and open a TCP connection."""
    place = f"{host} port {port}"
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as problem:  # the latter: an empty or long label
        return error(
            "server",
            f"the name {host} cannot be resolved: {getattr(problem, 'strerror', None) or problem}",
            "correct the server's name in the kit, or repair DNS (`getent hosts` shows what it "
            "knows)",
        )
    start = time.perf_counter()
    try:
        socket.create_connection((host, port), timeout).close()
    except TimeoutError:
        return error(
            "server",
            f"{place} does not answer within {timeout:.0f} s: packets are dropped on the way",
            f"open port {port} for TCP in the server's firewall and router, and check the address",
        )
    except ConnectionRefusedError:
        return error(
            "server",
            f"{place} refuses connections: the machine is there, but nothing listens",
            "start the SuperLink, and check its --fleet-api-address: on 127.0.0.1 it hears only "
            "its own machine",
        )
    except OSError as problem:
        return error(
            "server",
            f"{place} cannot be reached: {problem.strerror}",
            "check this device's network",
        )
    return ok("server", f"{place} answers in {1000 * (time.perf_counter() - start):.0f} ms")
